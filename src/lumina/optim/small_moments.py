"""AdamW whose moments are kept in less than float32."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from typing import Any

import torch
from torch import Tensor

from lumina.optim.arithmetic import with_gradients
from lumina.optim.moments import TwoMoments
from lumina.optim.optimizer import Slot
from lumina.parallel.mesh import RankGroup

PART = 2**23
"""Most elements whose moments are float32 at a time."""


class SmallMoments(TwoMoments):
    """AdamW, part by part: moments become float32, take the step, and are stored.

    Args:
        slots: the parameters it trains.
        options: beta1 and beta2, the decay rates of the moments, and eps, which is
            added to the denominator.
        device: where the step counter lives.
        ranks: those among which the tokens of a step are divided; None: one alone.
    """

    def __init__(
        self,
        slots: list[Slot],
        options: Mapping[str, Any],
        *,
        device: torch.device,
        ranks: RankGroup | None = None,
    ) -> None:
        super().__init__(slots, options, device=device, ranks=ranks)
        self.eps = options["eps"]

    def load(self, slot: Slot, rows: slice) -> tuple[Tensor, Tensor]:
        """Both moments of some rows of a slot, [R, columns] float32, to be changed."""
        raise NotImplementedError

    def store(
        self, slot: Slot, rows: slice, mean: Tensor, square: Tensor, skip: Tensor
    ) -> None:
        """Keep both moments of some rows of a slot, unless the step is skipped."""
        raise NotImplementedError

    @torch.no_grad()
    def step(
        self, *, lr: Tensor, weight_decay: float, divisor: Tensor, skip: Tensor
    ) -> None:
        """Update every master; arguments as of `Optimizer.step`."""
        moves = 1.0 - skip
        self.steps.add_(moves)
        correction1, correction2 = self.corrections()
        rate = lr * moves
        for slot, whole in with_gradients(self.slots, divisor, skip):
            if not whole.numel():  # other ranks hold all rows
                continue
            master = slot.master.view(-1, slot.master.shape[-1])
            gradients = whole.view(master.shape)
            for rows in _parts(master):
                gradient = gradients[rows]
                mean, square = self.load(slot, rows)
                mean.lerp_(gradient, (1.0 - self.beta1) * moves)
                square.lerp_(gradient.square(), (1.0 - self.beta2) * moves)
                self.store(slot, rows, mean, square, skip)
                update = (mean / correction1) / (
                    (square / correction2).sqrt() + self.eps
                )
                if slot.decay:
                    master[rows].mul_(1.0 - rate * weight_decay)
                master[rows].sub_(rate * update)
            slot.write_back()


def _parts(rows: Tensor) -> Iterator[slice]:
    """Rows of [R, columns] that are float32 at a time."""
    many = max(1, PART // max(1, rows.shape[1]))
    for first in range(0, rows.shape[0], many):
        yield slice(first, min(first + many, rows.shape[0]))
