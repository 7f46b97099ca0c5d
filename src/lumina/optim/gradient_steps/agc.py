"""Adaptive gradient clipping (Brock et al., 2021, arXiv:2102.06171)."""

from __future__ import annotations

import torch
from torch import Tensor

from lumina.optim.declared import Option
from lumina.optim.gradient_step import GradientStep, register_gradient_step


@register_gradient_step(
    "agc",
    words="the gradient of each row of a matrix is clipped by the size of the row",
    options={
        "clipping": Option(0.01, least=1e-6),
        "least_size": Option(1e-3, least=1e-12),
    },
)
class AdaptiveClipping(GradientStep):
    """Of each output, the norm of the gradient is at most a share of the weights'.

    As in the paper, the head is left alone; and so are vectors, of which there is one
    number for each output.
    """

    @torch.no_grad()
    def before(self, loss_scale: Tensor) -> None:
        """Clip each row; arguments as of `GradientStep`."""
        for slot, gradient in self.gradients("matrix", "expert", "embedding", "router"):
            if slot.master.ndim < 2:
                continue
            size = torch.linalg.vector_norm(slot.master, dim=-1, keepdim=True)
            limit = size.clamp(min=self.options["least_size"]) * (
                self.options["clipping"] * loss_scale
            )
            norm = torch.linalg.vector_norm(
                gradient, dim=-1, keepdim=True, dtype=torch.float32
            )
            # A norm that is not finite makes 0 or nothing of it, and 0 times what is
            # not finite is not finite either.
            factor = torch.where(norm > limit, limit / norm, 1.0)
            gradient.mul_(factor.to(gradient.dtype))
