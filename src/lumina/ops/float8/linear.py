"""A linear layer whose three products multiply float8."""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor
from torch.nn import functional as F

from lumina.ops.float8.scaled import Scaled, product, scaled

FORWARD = torch.float8_e4m3fn
"""Type of weights and activations: three bits of mantissa."""

GRADIENTS = {"e4m3": torch.float8_e4m3fn, "hybrid": torch.float8_e5m2}
"""Way -> type of gradients. With e5m2 they have the range of float16."""

MULTIPLE = 16
"""cuBLAS multiplies float8 matrices whose sides are multiples of it."""


def linear(x: Tensor, weight: Tensor, way: str) -> Tensor:
    """`torch.nn.functional.linear` without a bias, in float8.

    Args:
        x: [..., in], float32 or 16 bits.
        weight: [out, in]; both sides multiples of `MULTIPLE`.
        way: a key of `GRADIENTS`.

    Returns:
        [..., out] in the type of `x`.
    """
    rows = x.reshape(-1, x.shape[-1])
    out: Tensor = _Linear.apply(rows, weight, GRADIENTS[way])
    return out.view(*x.shape[:-1], weight.shape[0])


class _Linear(torch.autograd.Function):
    """[N, in] and [out, in] to [N, out]; what is kept for the backward has 8 bits."""

    @staticmethod
    def forward(ctx: Any, x: Tensor, weight: Tensor, gradients: torch.dtype) -> Tensor:
        """Both matrices are scaled once."""
        x8, weight8 = scaled(x, FORWARD), scaled(weight, FORWARD)
        ctx.save_for_backward(*x8, *weight8)
        ctx.gradients, ctx.types = gradients, (x.dtype, weight.dtype)
        return product(x8, weight8.mT, x.dtype, quick_sums=True)

    @staticmethod
    def backward(ctx: Any, gradient: Tensor) -> tuple[Tensor | None, ...]:
        """The gradient is scaled once, for both of its products."""
        x, x_scale, weight, weight_scale = ctx.saved_tensors
        x_type, weight_type = ctx.types
        grad8 = scaled(gradient, ctx.gradients)
        grad_x = grad_weight = None
        if ctx.needs_input_grad[0]:
            weight8 = Scaled(weight, weight_scale)
            grad_x = product(grad8, weight8, x_type, quick_sums=False)
        if ctx.needs_input_grad[1]:
            # Here the sum is over the rows, whose number need not be a multiple.
            grad_weight = product(
                Scaled(_filled_up(grad8.values), grad8.scale).mT,
                Scaled(_filled_up(x), x_scale),
                weight_type,
                quick_sums=False,
            )
        return grad_x, grad_weight, None


def _filled_up(values: Tensor) -> Tensor:
    """With rows of 0 below, up to a multiple."""
    missing = -values.shape[0] % MULTIPLE
    if not missing:
        return values
    # The bits of a 0 are the same in both types.
    return F.pad(values.view(torch.uint8), (0, 0, 0, missing)).view(values.dtype)
