"""Exponential moving average of the master weights."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import torch
from torch import Tensor

from lumina.optim.evaluated import Average
from lumina.optim.optimizer import Slot


class WeightAverage(Average):
    """An average that trails the masters, for evaluation and export.

    The decay warms up as min(decay, (1 + n) / (10 + n)) over n updates, so that the
    initial weights do not weigh on short runs (Tarvainen and Valpola 2017).

    Args:
        slots: the trained parameters that are averaged.
        decay: share of the old average kept by an update.
        device: where the number of updates is counted.
    """

    option = "ema_decay"

    def __init__(
        self, slots: Sequence[Slot], decay: float, *, device: torch.device
    ) -> None:
        super().__init__(slots, device=device)
        self.decay = decay

    @classmethod
    def of(
        cls, plan: Any, slots: Sequence[Slot], device: torch.device
    ) -> WeightAverage:
        """With the decay of the Plan."""
        return cls(slots, plan.ema_decay, device=device)

    @torch.no_grad()
    def update(self, skip: Tensor) -> None:
        """Move towards the masters, and count it, unless the step was skipped.

        Args:
            skip: [] float32, 1.0 where nothing may change.
        """
        taken = 1.0 - skip
        # One minus the decay, written without the subtraction that would cancel.
        share = (9.0 / (10.0 + self.updates)).clamp(min=1.0 - self.decay)
        weight = share * taken
        self.updates.add_(taken)
        for average, slot in zip(self.averages, self.slots, strict=True):
            average.lerp_(slot.master, weight)
