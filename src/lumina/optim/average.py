"""Exponential moving average of the master weights."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager

import torch
from torch import Tensor

from lumina.optim.optimizer import Slot, local


class WeightAverage:
    """An average that trails the masters, for evaluation and export.

    The decay warms up as min(decay, (1 + n) / (10 + n)) over n updates, so that the
    initial weights do not weigh on short runs (Tarvainen and Valpola 2017).

    Args:
        slots: the trained parameters that are averaged.
        decay: share of the old average kept by an update.
        device: where the number of updates is counted.
    """

    def __init__(
        self, slots: list[Slot], decay: float, *, device: torch.device
    ) -> None:
        self.slots = slots
        self.decay = decay
        # On the device, because only the device knows which steps were skipped.
        self.updates = torch.zeros((), dtype=torch.float32, device=device)
        self.averages: list[Tensor] = [slot.master.clone() for slot in slots]

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

    @contextmanager
    def applied(self) -> Iterator[None]:
        """The network computes with the average inside this context."""
        weights = [local(slot.parameter.data) for slot in self.slots]
        kept = [weight.clone() for weight in weights]
        with torch.no_grad():
            torch._foreach_copy_(weights, self.averages)
        try:
            yield
        finally:
            with torch.no_grad():
                torch._foreach_copy_(weights, kept)
