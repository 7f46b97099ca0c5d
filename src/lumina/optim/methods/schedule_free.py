"""Schedule-free AdamW (Defazio et al., 2024, arXiv:2405.15682).

Three sequences: z takes the steps, x is a weighted mean of z, and gradients are taken
at y, between the two. No schedule has to end for x to be good, so a run can stop at any
step. The masters are y, z is a state, and x, which evaluation, generation and export
use, is computed from both.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import torch
from torch import Tensor

from lumina.errors import LuminaError
from lumina.optim.arithmetic import precise, with_gradients
from lumina.optim.declared import Option, StateTensor, by_element, register_optimizer
from lumina.optim.optimizer import Optimizer, Slot
from lumina.parallel.mesh import RankGroup


@register_optimizer(
    "schedule_free",
    words="schedule-free AdamW",
    transfer=by_element,
    states={"z": StateTensor(), "exp_avg_sq": StateTensor()},
    options={"power": Option(2.0, least=0)},
    settings={"beta1": "beta1", "beta2": "beta2", "eps": "eps"},
    averaged=False,
    evaluates=True,
    advice="the usual rate falls with the schedule, and schedule_free needs one that "
    "does not, such as --lr-scheduler constant, and may be larger",
)
class ScheduleFree(Optimizer):
    """AdamW whose evaluated weights are a mean over all steps.

    Args:
        slots: the parameters it trains.
        options: beta1, how near y is to x; beta2, the decay rate of the second moment;
            eps, which is added to the denominator; and power, where a step counts in
            the mean by the largest rate so far to that power.
        device: where its own numbers live.
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
        if not self.beta1:
            raise LuminaError(
                "E005",
                "the optimizer schedule_free has no mean of the weights with beta1 0",
                "use a beta1 above 0, such as 0.9",
            )
        self.steps, self.largest_rate, self.weights = torch.zeros(
            3, dtype=torch.float32, device=device
        ).unbind()
        for slot in slots:
            slot.state = {
                "z": slot.master.clone(),
                "exp_avg_sq": torch.zeros_like(slot.master),
            }

    @torch.no_grad()
    def step(
        self, *, lr: Tensor, weight_decay: float, divisor: Tensor, skip: Tensor
    ) -> None:
        """Update every master; arguments as of `Optimizer.step`."""
        moves = 1.0 - skip
        rate = lr * moves
        self.steps.add_(moves)
        count = precise(self.steps).clamp(min=1.0)
        correction = (1.0 - self.beta2**count).float()
        self.largest_rate.copy_(torch.maximum(self.largest_rate, rate))
        weight = self.largest_rate.pow(self.options["power"]) * moves
        self.weights.add_(weight)
        share = torch.where(self.weights > 0, weight / self.weights, 0.0)
        near = rate * (1.0 - self.beta1 * (1.0 - share))
        for slot, gradient in with_gradients(self.slots, divisor, skip):
            z, square = slot.state["z"], slot.state["exp_avg_sq"]
            square.lerp_(gradient.square(), (1.0 - self.beta2) * moves)
            root = (square / correction).sqrt_().add_(self.options["eps"])
            update = gradient.div_(root)
            if slot.decay:
                update.add_(slot.master, alpha=weight_decay)
            slot.master.lerp_(z, share).sub_(near * update)
            z.sub_(rate * update)
            slot.write_back()

    def evaluated(self, slot: Slot) -> Tensor:
        """x, of which y is the mean with z."""
        return torch.lerp(slot.master, slot.state["z"], 1.0 - 1.0 / self.beta1)

    def scalars(self) -> dict[str, Tensor]:
        """The number of steps, the largest rate, and the sum of the weights."""
        return {
            "steps": self.steps,
            "largest_rate": self.largest_rate,
            "weights": self.weights,
        }

    def load_scalars(self, values: Mapping[str, float]) -> None:
        """The inverse of `scalars`."""
        for name, number in self.scalars().items():
            number.fill_(values[name])
