"""ZClip, clipping of gradient norms that stand out (Kumar et al., 2025).

arXiv:2504.02507.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import torch
from torch import Tensor

from lumina.optim.declared import Option
from lumina.optim.gate import Verdict
from lumina.optim.gradient_step import GradientStep, register_gradient_step
from lumina.optim.optimizer import Slot


@register_gradient_step(
    "zclip",
    words="a gradient norm far above the recent ones is clipped",
    options={
        "threshold": Option(2.5, least=0.1),
        "memory": Option(0.97, least=0, below=1),
        "first": Option(25, least=2),
    },
)
class ZClip(GradientStep):
    """Norms more than `threshold` deviations above their mean are brought nearer.

    A norm of z deviations becomes one of threshold ** 2 / z. Mean and deviation are
    those of the first norms, and then moving averages of the clipped ones. What
    `--max-grad-norm` says holds too.
    """

    def __init__(
        self,
        slots: list[Slot],
        roles: Mapping[str, str],
        options: Mapping[str, Any],
        *,
        device: torch.device,
        seed: int = 0,
    ) -> None:
        super().__init__(slots, roles, options, device=device, seed=seed)
        self.seen, self.mean, self.variance = torch.zeros(
            3, dtype=torch.float32, device=device
        ).unbind()

    @torch.no_grad()
    def judge(self, verdict: Verdict, loss_scale: Tensor) -> None:
        """Divide by more where the norm stands out, and remember the norm."""
        norm, keep = verdict.norm, verdict.skip > 0
        threshold, memory = self.options["threshold"], self.options["memory"]
        learning = self.seen < self.options["first"]
        deviation = self.variance.sqrt()
        z = (norm - self.mean) / deviation.clamp(min=1e-12)
        stands_out = (z > threshold) & ~learning & ~keep
        wanted = self.mean + threshold**2 / z.clamp(min=threshold) * deviation
        taken = torch.where(stands_out, wanted, norm)
        more = torch.where(stands_out, loss_scale * norm / wanted, 0.0)
        verdict.divisor = torch.maximum(verdict.divisor, more)
        # The first ones: mean and variance of all so far. Then: moving averages.
        share = torch.where(learning, 1.0 / (self.seen + 1.0), 1.0 - memory)
        mean = self.mean + share * (taken - self.mean)
        spread = torch.where(
            learning, (taken - mean) * (taken - self.mean), (taken - mean).square()
        )
        variance = self.variance + share * (spread - self.variance)
        self.variance.copy_(torch.where(keep, self.variance, variance))
        self.mean.copy_(torch.where(keep, self.mean, mean))
        self.seen.add_(1.0 - verdict.skip)

    def scalars(self) -> dict[str, Tensor]:
        """How many norms were seen, their mean and their variance."""
        return {"seen": self.seen, "mean": self.mean, "variance": self.variance}
