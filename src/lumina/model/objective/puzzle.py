"""Solving puzzles: the label of a position is what stands there in the solution."""

from __future__ import annotations

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from lumina.batch import IGNORE, Batch
from lumina.model.aux_keys import HALTING, PUZZLE_STATISTICS
from lumina.model.hrm import PuzzleOutput
from lumina.model.interface import LossSums, Output
from lumina.model.layers import Linear
from lumina.model.spec import ModelSpec
from lumina.ops.cross_entropy.stablemax import stablemax_cross_entropy


class PuzzleObjective(nn.Module):
    """Linear head, cross entropy averaged within a puzzle, and the halting losses.

    Every sum runs over rows: a puzzle weighs as much as any other, however many
    positions it has. Rows without a label do not count.
    """

    predicts_next = False

    def __init__(self, spec: ModelSpec) -> None:
        super().__init__()
        assert spec.hrm is not None
        self.stablemax = spec.hrm.loss == "stablemax"
        self.vocab_size = spec.vocab_size
        self.head = Linear(spec.hidden_size, spec.padded_vocab_size)

    def forward(self, output: Output, batch: Batch, tied: None = None) -> LossSums:
        """Loss sums over rows.

        Args:
            output: a `PuzzleOutput`; the puzzles that it is about bring their labels.
            batch: accepted as other objectives do: rows under way are older than it.
            tied: accepted as other objectives do; the head is never tied.

        Returns:
            `terms` has "correct" (share of right positions, summed over rows) and
            "exact" (puzzles that are right everywhere); in evaluation also, of every
            row, the "answers" [B, S] and "q_halt" [B]. `aux` has `HALTING`, the sum of
            both halting losses, differentiable, and in training `PUZZLE_STATISTICS`,
            without gradient.
        """
        assert isinstance(output, PuzzleOutput)
        logits_bsv = self.logits(output.hidden)
        labels = output.labels
        counted_bs = labels != IGNORE
        count_b = counted_bs.sum(-1)
        valid_b = count_b > 0
        share_b = 1.0 / count_b.clamp(min=1)
        with torch.no_grad():
            right_bs = counted_bs & (logits_bsv.argmax(-1) == labels)
            exact_b = valid_b & (right_bs.sum(-1) == count_b)
        loss_b = (self._cross_entropy(logits_bsv, labels) * share_b[:, None]).sum(-1)
        halt = _bce(output.q_halt, exact_b.float(), valid_b)
        go_on = torch.zeros_like(halt)
        if output.target is not None:
            go_on = _bce(output.q_continue, output.target, valid_b)
        aux = {HALTING: halt + go_on}
        if output.carry is not None:
            finished = self._finished(output, exact_b, valid_b)
            aux[PUZZLE_STATISTICS] = torch.stack(
                [halt.detach(), go_on.detach(), *finished]
            )
        terms = {
            "correct": (right_bs.sum(-1) * share_b).sum(),
            "exact": exact_b.sum().float(),
        }
        if not self.training:
            terms["answers"] = logits_bsv.argmax(-1)
            terms["q_halt"] = output.q_halt
        return LossSums(loss_b.sum().float(), valid_b.sum().float(), terms, aux=aux)

    def logits(self, hidden: Tensor, tied: None = None) -> Tensor:
        """[B, S, D] to [B, S, vocab_size] float32; the head is never tied."""
        scores: Tensor = self.head(hidden)
        return scores[..., : self.vocab_size].float()

    def _cross_entropy(self, logits_bsv: Tensor, labels: Tensor) -> Tensor:
        """[B, S], 0 where nothing is to be learned."""
        if self.stablemax:
            return stablemax_cross_entropy(logits_bsv, labels, IGNORE)
        return F.cross_entropy(
            logits_bsv.transpose(1, 2), labels, ignore_index=IGNORE, reduction="none"
        )

    @torch.no_grad()
    def _finished(
        self, output: PuzzleOutput, exact_b: Tensor, valid_b: Tensor
    ) -> list[Tensor]:
        """Of the rows that halted: their number, segments, solved ones, known ones.

        Known: the halting head knew whether the puzzle was solved.
        """
        done_b = output.carry.halted & valid_b
        knew_b = (output.q_halt >= 0) == exact_b
        return [
            done_b.sum().float(),
            torch.where(done_b, output.carry.steps, 0).sum().float(),
            (done_b & exact_b).sum().float(),
            (done_b & knew_b).sum().float(),
        ]


def _bce(logits_b: Tensor, target_b: Tensor, valid_b: Tensor) -> Tensor:
    """Binary cross entropy summed over the rows that count."""
    loss_b = F.binary_cross_entropy_with_logits(logits_b, target_b, reduction="none")
    return torch.where(valid_b, loss_b, 0.0).sum()
