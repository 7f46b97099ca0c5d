"""Next-token prediction by a model that thinks about each token for a while.

Deep supervision: every segment that a token takes predicts its label, and the halting
head learns whether that prediction is right, and what going on is worth.
"""

from __future__ import annotations

from typing import NamedTuple

import torch
from torch import Tensor
from torch.nn import functional as F

from lumina.batch import IGNORE, Batch
from lumina.model.hrm_language import HaltingOutput
from lumina.model.interface import LossSums, Output
from lumina.model.objective.language_model import LanguageModelObjective
from lumina.model.spec import ModelSpec
from lumina.ops.cross_entropy.chunked import cross_entropy

STATISTICS = ("entered", "ended", "right", "known")
"""What a training step counts in every segment, as `act.statistics` [M, 4]: tokens
with a label that took it, tokens that halted after it, those among them whose most
likely token is right, and tokens of which the halting head knew whether it is."""


class _Segments(NamedTuple):
    """What was thought of tokens with a label, t = b * s."""

    active_mt: Tensor  # bool
    spent_t: Tensor  # segments of a token, at least 1 so that it divides
    right_mt: Tensor  # float32: the most likely token is the label
    q_halt_mt: Tensor
    q_continue_mt: Tensor


class HaltingLanguageObjective(LanguageModelObjective):
    """A linear head, cross entropy after every segment, and the halting losses.

    Args:
        spec: the resolved shape, with `hrm`.
        loss_chunk_bytes: as in `LanguageModelObjective`.
    """

    def __init__(self, spec: ModelSpec, loss_chunk_bytes: int) -> None:
        super().__init__(spec, loss_chunk_bytes)
        assert spec.hrm is not None
        self.learns_continue = spec.hrm.learns_continue

    def forward(
        self, output: Output, batch: Batch, tied: Tensor | None = None
    ) -> LossSums:
        """Loss sums of a batch, and the sums that ride along (in training).

        `loss_sum` is the cross entropy of every token where it halted, which is what
        the model says. Its gradient is that of the mean over the segments a token took,
        so every token counts the same, however long it was thought about.

        Returns:
            Sums; `aux` has `act.halt_loss` and, for the hrm variant,
            `act.continue_loss`, means over a token's segments summed over tokens,
            differentiable; `act.statistics` [M, 4], without gradient, see
            `STATISTICS`. In evaluation
            `terms` has "segments", the weighted sum of what tokens took.
        """
        assert isinstance(output, HaltingOutput)
        if output.states is None:
            losses = super().forward(output, batch, tied)
            losses.terms["segments"] = _spent(output.spent, batch)
            return losses
        labels_t = batch.labels.reshape(-1)
        valid_t = labels_t != IGNORE
        weight_t = valid_t.float()
        if batch.loss_weights is not None:
            weight_t = weight_t * batch.loss_weights.reshape(-1)
        segments = len(output.states)
        active_mt = output.active.flatten(1) & valid_t
        spent_t = active_mt.sum(0).clamp(min=1)
        found = cross_entropy(
            output.states.flatten(0, 2),
            self.matrix(tied),
            labels_t.repeat(segments),
            (active_mt * (weight_t / spent_t)).flatten(),
            self.vocab_size,
            self.loss_chunk_bytes,
        )
        last_1t = (spent_t - 1)[None]
        with torch.no_grad():
            loss_t = found.loss_t.view(segments, -1).gather(0, last_1t)[0]
            final = torch.where(weight_t != 0, loss_t * weight_t, 0.0).sum()
            right_mt = found.correct_t.view(segments, -1)
            right_t = right_mt.gather(0, last_1t)[0]
            log_z_t = found.log_z_t.view(segments, -1).gather(0, last_1t)[0]
        seen = _Segments(
            active_mt,
            spent_t,
            right_mt,
            output.q_halt.flatten(1),
            output.q_continue.flatten(1),
        )
        aux = {"act.halt_loss": _halt_loss(seen), "act.statistics": _counted(seen)}
        if self.learns_continue:
            aux["act.continue_loss"] = _continue_loss(seen)
        return LossSums(
            found.loss + (final - found.loss).detach(),
            weight_t.sum(),
            {
                "correct": (right_t * valid_t).sum(),
                "right": right_t.view(batch.labels.shape),
                "log_z": log_z_t.view(batch.labels.shape),
            },
            aux=aux,
        )


def _spent(spent_bs: Tensor, batch: Batch) -> Tensor:
    """Segments of the counted tokens, by their weight."""
    counted_bs = (batch.labels != IGNORE).float()
    if batch.loss_weights is not None:
        counted_bs = counted_bs * batch.loss_weights
    return (spent_bs * counted_bs).sum()


def _halt_loss(seen: _Segments) -> Tensor:
    """Whether the most likely token is right now."""
    return _mean(seen.q_halt_mt, seen.right_mt, seen.active_mt, seen.spent_t)


def _continue_loss(seen: _Segments) -> Tensor:
    """What the next segment is worth, whether a token takes it or not.

    Where the head would halt after it, the outcome: whether it is right then. The
    estimate of it, which the reference takes, lags behind while all of them rise, and
    then every token halts at once. Elsewhere, what the head says of going on further.
    """
    with torch.no_grad():
        stops_mt = seen.q_halt_mt[1:] > seen.q_continue_mt[1:]
        stops_mt[-1] = True  # there is nothing to go on to
        further_mt = torch.sigmoid(seen.q_continue_mt[1:])
        target_mt = torch.where(stops_mt, seen.right_mt[1:], further_mt)
    active_mt = seen.active_mt[:-1]
    return _mean(seen.q_continue_mt[:-1], target_mt, active_mt, seen.spent_t)


def _mean(
    q_mt: Tensor, target_mt: Tensor, counted_mt: Tensor, spent_t: Tensor
) -> Tensor:
    """Binary cross entropy, over a token's segments by their number, summed."""
    loss_mt = F.binary_cross_entropy_with_logits(q_mt, target_mt, reduction="none")
    return (torch.where(counted_mt, loss_mt, 0.0) / spent_t).sum()


@torch.no_grad()
def _counted(seen: _Segments) -> Tensor:
    """`STATISTICS`, [M, 4]."""
    active_mt = seen.active_mt
    none_1t = torch.zeros_like(active_mt[:1])
    ended_mt = active_mt & ~torch.cat([active_mt[1:], none_1t])
    known_mt = active_mt & ((seen.q_halt_mt > 0) == (seen.right_mt > 0))
    columns = (active_mt, ended_mt, ended_mt & (seen.right_mt > 0), known_mt)
    return torch.stack([c.sum(1, dtype=torch.float32) for c in columns], dim=1)
