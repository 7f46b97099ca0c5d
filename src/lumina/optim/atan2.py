"""Adam with atan2 in place of the division (Everett et al., 2024, arXiv:2407.05872).

The update is atan2(m, sqrt(v)) instead of m / (sqrt(v) + eps): no epsilon to choose,
never larger than pi / 2, and the same whatever the scale of the gradients.
"""

from __future__ import annotations

import torch
from torch import Tensor

from lumina.optim.adamw import AdamW, local


class AdamATan2(AdamW):
    """The optimizer of the hierarchical reasoning recipe; arguments as `AdamW`.

    `eps` is not used.
    """

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
        # In float64: 1 - beta ** step cancels in the first steps. A skipped first step
        # leaves the count at 0, whose correction would divide by 0.
        step = self.steps[0].double().clamp(min=1.0)
        correction1 = (1.0 - self.beta1**step).float()
        correction2 = (1.0 - self.beta2**step).float()
        rate = lr * moves
        for slot in self.slots:
            gradient = slot.gradient()
            if gradient is None:
                continue
            scaled = gradient.float() / divisor
            scaled = torch.where(skip > 0, 0.0, scaled)
            slot.exp_avg.lerp_(scaled, (1.0 - self.beta1) * moves)
            slot.exp_avg_sq.lerp_(scaled.square(), (1.0 - self.beta2) * moves)
            first = slot.exp_avg / correction1
            second = (slot.exp_avg_sq / correction2).sqrt()
            if slot.decay:
                slot.master.mul_(1.0 - rate * weight_decay)
            slot.master.sub_(rate * torch.atan2(first, second))
            if slot.parameter.dtype != torch.float32:
                local(slot.parameter.data).copy_(slot.master)
