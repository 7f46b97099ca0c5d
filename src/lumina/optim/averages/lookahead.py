"""Lookahead (Zhang et al., 2019, arXiv:1907.08610)."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import torch
from torch import Tensor

from lumina.optim.evaluated import Average
from lumina.optim.optimizer import Slot


class Lookahead(Average):
    """Slow weights that follow the masters, which go back to them, every few steps.

    Evaluation uses the slow weights.

    Args:
        slots: the trained parameters.
        every: steps from one such step to the next.
        share: how far the slow weights go towards the masters.
        device: where the number of updates is counted.
    """

    option = "lookahead_steps"

    def __init__(
        self, slots: Sequence[Slot], every: int, share: float, *, device: torch.device
    ) -> None:
        super().__init__(slots, device=device)
        self.every, self.share = every, share

    @classmethod
    def of(cls, plan: Any, slots: Sequence[Slot], device: torch.device) -> Lookahead:
        """As the Plan says."""
        return cls(slots, plan.lookahead_steps, plan.lookahead_share, device=device)

    @torch.no_grad()
    def update(self, skip: Tensor) -> None:
        """Where it is time for it, move the slow weights and set the masters back."""
        super().update(skip)
        meet = (self.updates % self.every == 0).float() * (1.0 - skip)
        for slow, slot in zip(self.averages, self.slots, strict=True):
            slow.lerp_(slot.master, self.share * meet)
            slot.master.lerp_(slow, meet)
            slot.write_back()
