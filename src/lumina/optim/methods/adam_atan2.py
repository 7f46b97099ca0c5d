"""Adam with atan2 in place of the division (Everett et al., 2024, arXiv:2407.05872).

The update is atan2(m, sqrt(v)) instead of m / (sqrt(v) + eps): no epsilon to choose,
never larger than pi / 2, and the same whatever the scale of the gradients.
"""

from __future__ import annotations

import torch
from torch import Tensor

from lumina.optim.declared import by_element, register_optimizer
from lumina.optim.moments import MOMENTS, TwoMoments


@register_optimizer(
    "adam_atan2",
    words="Adam with atan2",
    transfer=by_element,
    states=MOMENTS,
    settings={"beta1": "beta1", "beta2": "beta2"},
)
class AdamATan2(TwoMoments):
    """The optimizer of the hierarchical reasoning recipe; arguments as `TwoMoments`."""

    @torch.no_grad()
    def step(
        self, *, lr: Tensor, weight_decay: float, divisor: Tensor, skip: Tensor
    ) -> None:
        """Update every master, and the half-precision weights made from them.

        Args:
            lr: [] float32 on the device.
            weight_decay: decoupled decay of the slots that decay.
            divisor: [] float32 the gradients are divided by (loss scale / clip).
            skip: [] float32, 1.0 where nothing may change.
        """
        moves = 1.0 - skip
        self.steps.add_(moves)
        correction1, correction2 = self.corrections()
        rate = lr * moves
        for slot in self.slots:
            gradient = slot.gradient()
            if gradient is None:
                continue
            scaled = gradient.float() / divisor
            scaled = torch.where(skip > 0, 0.0, scaled)
            mean, square = slot.state["exp_avg"], slot.state["exp_avg_sq"]
            mean.lerp_(scaled, (1.0 - self.beta1) * moves)
            square.lerp_(scaled.square(), (1.0 - self.beta2) * moves)
            first = mean / correction1
            second = (square / correction2).sqrt()
            if slot.decay:
                slot.master.mul_(1.0 - rate * weight_decay)
            slot.master.sub_(rate * torch.atan2(first, second))
            slot.write_back()
