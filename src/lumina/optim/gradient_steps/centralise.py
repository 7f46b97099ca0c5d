"""Gradient centralisation (Yong et al., 2020, arXiv:2004.01461)."""

from __future__ import annotations

import torch
from torch import Tensor

from lumina.optim.gradient_step import GradientStep, register_gradient_step


@register_gradient_step(
    "centralise", words="the gradient of each row of a matrix has a mean of 0"
)
class Centralise(GradientStep):
    """Of the weights of each output, the mean of the gradient is taken away."""

    @torch.no_grad()
    def before(self, loss_scale: Tensor) -> None:
        """Take the mean away; arguments as of `GradientStep`."""
        for _, gradient in self.gradients("matrix", "expert"):
            mean = gradient.mean(-1, keepdim=True, dtype=torch.float32)
            gradient.sub_(mean.to(gradient.dtype))
