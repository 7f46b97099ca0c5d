"""Exponential moving average of the master weights."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager

import torch
from torch import Tensor

from lumina.optim.adamw import Slot, local


class WeightAverage:
    """An average that trails the masters, for evaluation and export.

    The decay warms up as min(decay, (1 + n) / (10 + n)) over n updates, so that the
    initial weights do not weigh on short runs (Tarvainen and Valpola 2017).

    Args:
        slots: the trained parameters.
        decay: share of the old average kept by an update.
    """

    def __init__(self, slots: list[Slot], decay: float) -> None:
        self.slots = slots
        self.decay = decay
        self.updates = 0
        self.averages: list[Tensor] = [slot.master.clone() for slot in slots]

    @torch.no_grad()
    def update(self) -> None:
        """Move towards the masters."""
        decay = min(self.decay, (1 + self.updates) / (10 + self.updates))
        self.updates += 1
        masters = [slot.master for slot in self.slots]
        torch._foreach_lerp_(self.averages, masters, 1.0 - decay)

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
