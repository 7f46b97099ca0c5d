"""What every variant of Adam keeps: two moments and a count of steps."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import torch
from torch import Tensor

from lumina.optim.arithmetic import precise
from lumina.optim.declared import StateTensor
from lumina.optim.optimizer import Optimizer, Slot
from lumina.parallel.mesh import RankGroup

MOMENTS = {"exp_avg": StateTensor(), "exp_avg_sq": StateTensor()}
"""Running means of the gradient and of its square."""


class TwoMoments(Optimizer):
    """Float32 moments of each master's shape, at first 0.

    Args:
        slots: the parameters it trains.
        options: beta1 and beta2, the decay rates of the moments, and what a variant
            adds to them.
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
        self.beta1, self.beta2 = options["beta1"], options["beta2"]
        for slot in slots:
            slot.state = self.first_states(slot)
        # One counter a slot, because torch's fused kernel adds to each of them; all
        # are views of one tensor and always equal.
        self.steps = torch.zeros(max(len(slots), 1), dtype=torch.float32, device=device)

    def first_states(self, slot: Slot) -> dict[str, Tensor]:
        """What a slot's moments are kept as before the first step."""
        return {name: torch.zeros_like(slot.master) for name in MOMENTS}

    def corrections(self) -> tuple[Tensor, Tensor]:
        """What each moment is divided by, because it began at 0: [] float32 each."""
        # In float64: 1 - beta ** step cancels in the first steps. A skipped first step
        # leaves the count at 0, whose correction would divide by 0.
        step = precise(self.steps[0]).clamp(min=1.0)
        return (1.0 - self.beta1**step).float(), (1.0 - self.beta2**step).float()

    def scalars(self) -> dict[str, Tensor]:
        """The number of steps that were taken."""
        return {"steps": self.steps[0]}

    def load_scalars(self, values: Mapping[str, float]) -> None:
        """The inverse of `scalars`."""
        self.steps.fill_(values["steps"])
