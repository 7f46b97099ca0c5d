"""Stochastic weight averaging (Izmailov et al., 2018, arXiv:1803.05407)."""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import Any

import torch
from torch import Tensor

from lumina.optim.evaluated import Average
from lumina.optim.optimizer import Slot


class StochasticAverage(Average):
    """The mean of the masters after each step of the last part of a run.

    Before that part, evaluation uses the masters.

    Args:
        slots: the trained parameters that are averaged.
        before: steps before the first one that counts.
        device: where the number of updates is counted.
    """

    option = "swa_start"

    def __init__(
        self, slots: Sequence[Slot], before: int, *, device: torch.device
    ) -> None:
        super().__init__(slots, device=device)
        self.before = before

    @classmethod
    def of(
        cls, plan: Any, slots: Sequence[Slot], device: torch.device
    ) -> StochasticAverage:
        """From that share of the run's steps on."""
        return cls(slots, math.floor(plan.swa_start * plan.steps), device=device)

    @torch.no_grad()
    def update(self, skip: Tensor) -> None:
        """Take the masters into the mean, unless the step was skipped."""
        super().update(skip)
        weight = (1.0 - skip) / (self.updates - self.before).clamp(min=1.0)
        for average, slot in zip(self.averages, self.slots, strict=True):
            average.lerp_(slot.master, weight)
