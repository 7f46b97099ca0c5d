"""Solving puzzles: the label of a position is what stands there in the solution."""

from __future__ import annotations

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from lumina.batch import IGNORE
from lumina.model.hrm import PuzzleOutput
from lumina.model.interface import LossSums
from lumina.model.layers import Linear
from lumina.model.spec import ModelSpec
from lumina.ops.cross_entropy.stablemax import stablemax_cross_entropy

HALTING_WEIGHT = 0.5
"""Of the two halting losses beside the cross entropy."""

ACT = ("halt_loss", "continue_loss", "halted", "steps", "exact", "q_accuracy")
"""What a training step reports as `act.*`, in this order, as sums over rows."""

VECTORS, IDENTIFIERS = "puzzle.vectors", "puzzle.identifiers"
"""Of `aux`: the vectors that the rows of a forward used, and whose they are."""


class PuzzleObjective(nn.Module):
    """Linear head, cross entropy averaged within a puzzle, and the halting losses.

    Every sum runs over rows: a puzzle weighs as much as any other, however many
    positions it has. Rows without a label do not count.
    """

    def __init__(self, spec: ModelSpec) -> None:
        super().__init__()
        assert spec.hrm is not None
        self.stablemax = spec.hrm.loss == "stablemax"
        self.vocab_size = spec.vocab_size
        self.head = Linear(spec.hidden_size, spec.padded_vocab_size)

    def forward(self, thought: PuzzleOutput) -> tuple[LossSums, dict[str, Tensor]]:
        """Loss sums over rows, and the sums that ride along.

        Returns:
            `terms` has "correct" (share of right positions, summed over rows) and
            "exact" (puzzles that are right everywhere); in evaluation also, of every
            row, the "answers" [B, S] and "q_halt" [B]. The other sums:
            `act.halt_loss` and `act.continue_loss`, differentiable; and, over rows that
            halted in this step, `act.halted` (their number), `act.steps` (segments
            spent), `act.exact` and `act.q_accuracy` (the halting head knew whether the
            puzzle was solved), without gradient. In training also `VECTORS` [B, D]
            and `IDENTIFIERS` [B], what the rows' puzzles are known by.
        """
        logits_bsv = self.logits(thought.hidden)
        labels = thought.labels
        counted_bs = labels != IGNORE
        count_b = counted_bs.sum(-1)
        valid_b = count_b > 0
        share_b = 1.0 / count_b.clamp(min=1)
        with torch.no_grad():
            right_bs = counted_bs & (logits_bsv.argmax(-1) == labels)
            exact_b = valid_b & (right_bs.sum(-1) == count_b)
        loss_b = (self._cross_entropy(logits_bsv, labels) * share_b[:, None]).sum(-1)
        aux = {"act.halt_loss": _bce(thought.q_halt, exact_b.float(), valid_b)}
        if thought.target is not None:
            aux["act.continue_loss"] = _bce(thought.q_continue, thought.target, valid_b)
        if thought.carry is not None:
            aux |= self._finished(thought, exact_b, valid_b)
        if thought.vectors is not None:
            aux |= {VECTORS: thought.vectors, IDENTIFIERS: thought.carry.puzzle_ids}
        terms = {
            "correct": (right_bs.sum(-1) * share_b).sum(),
            "exact": exact_b.sum().float(),
        }
        if not self.training:
            terms["answers"] = logits_bsv.argmax(-1)
            terms["q_halt"] = thought.q_halt
        return (
            LossSums(loss_b.sum().float(), valid_b.sum().float(), terms, thought.carry),
            aux,
        )

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
        self, thought: PuzzleOutput, exact_b: Tensor, valid_b: Tensor
    ) -> dict[str, Tensor]:
        """What became of the rows that halted."""
        done_b = thought.carry.halted & valid_b
        knew_b = (thought.q_halt >= 0) == exact_b
        return {
            "act.halted": done_b.sum().float(),
            "act.steps": torch.where(done_b, thought.carry.steps, 0).sum().float(),
            "act.exact": (done_b & exact_b).sum().float(),
            "act.q_accuracy": (done_b & knew_b).sum().float(),
        }


def halting_terms(aux: dict[str, Tensor]) -> tuple[Tensor, Tensor]:
    """The weighted halting losses, and everything in the order of `ACT` without them.

    Returns:
        [] differentiable, and [6] float32; what a variant has not counts as 0.
    """
    none = torch.zeros((), device=aux["act.halt_loss"].device)
    values = [aux.get(f"act.{name}", none) for name in ACT]
    return HALTING_WEIGHT * (values[0] + values[1]), torch.stack(values).detach()


def _bce(logits_b: Tensor, target_b: Tensor, valid_b: Tensor) -> Tensor:
    """Binary cross entropy summed over the rows that count."""
    loss_b = F.binary_cross_entropy_with_logits(logits_b, target_b, reduction="none")
    return torch.where(valid_b, loss_b, 0.0).sum()
