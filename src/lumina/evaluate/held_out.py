"""Loss on held-out batches: the same number on any number of ranks."""

from __future__ import annotations

import math
from collections.abc import Iterable
from dataclasses import dataclass

import torch
from torch import nn

from lumina.assemble.ranks import Ranks
from lumina.model.interface import Batch


@dataclass(frozen=True)
class HeldOut:
    """An evaluation's outcome.

    Attributes:
        loss: mean cross entropy over counted tokens, in nats.
        tokens: how many were counted.
        accuracy: share whose most likely token was right; None if not measured.
        exact: share of puzzles that were right everywhere; None for text.
    """

    loss: float
    tokens: int
    accuracy: float | None = None
    exact: float | None = None

    @property
    def perplexity(self) -> float:
        """exp(loss)."""
        return math.exp(min(self.loss, 700.0))

    def bits_per_byte(self, size: int) -> float:
        """Total bits over the bytes of the text those tokens came from."""
        return self.loss * self.tokens / math.log(2) / size


@torch.no_grad()
def held_out_loss(
    model: nn.Module,
    batches: Iterable[Batch],
    *,
    device: torch.device,
    ranks: Ranks | None = None,
) -> HeldOut:
    """Mean loss of `model` over `batches`, in evaluation mode.

    Args:
        model: `batch -> (LossSums, aux)`.
        batches: this rank's share, as many as every other rank's, because sharded
            models meet in every forward; see `lumina.data.stream.eval_batches`.
        device: where the model is.
        ranks: this process's place.
    """
    ranks = ranks or Ranks()
    sums = torch.zeros(4, dtype=torch.float64, device=device)
    puzzles = False
    was_training = model.training
    model.eval()
    try:
        for batch in batches:
            losses, _ = model(batch.to(device))
            sums[0] += losses.loss_sum
            sums[1] += losses.weight_sum
            if "correct" in losses.terms:
                sums[2] += losses.terms["correct"]
            if "exact" in losses.terms:
                puzzles = True
                sums[3] += losses.terms["exact"]
    finally:
        model.train(was_training)
    ranks.sum_(sums)
    loss, tokens, correct, exact = sums.tolist()
    return HeldOut(
        loss=loss / tokens if tokens else float("nan"),
        tokens=round(tokens),
        accuracy=correct / tokens if tokens else None,
        exact=exact / tokens if tokens and puzzles else None,
    )
