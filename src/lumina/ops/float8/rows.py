"""Float8 products with a scale for each row, and weights' gradients in 16 bits.

The recipe that torchao calls "rowwise with the gradient of the weight in high
precision": every row of activations, of weights and of gradients has a scale of its
own along the sum, so that an outlier coarsens no other row. The gradient of a weight
sums over the tokens, which a scale of rows cannot follow, and small errors of it add up
over a whole run: it is computed from the unrounded values in the type of the input.

Every sum is a slow one: quick sums of the kernel that takes scales of rows were off by
a quarter for 16,384 positive terms on an H200 (2026-11-30).
"""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor

from lumina.ops.float8.linear import FORWARD, GRADIENTS, MULTIPLE
from lumina.ops.float8.scaled import Scaled, grouped_product, product, scaled_rows
from lumina.ops.moe.products import kernel_mm


def linear_by_rows(x: Tensor, weight: Tensor, way: str) -> Tensor:
    """`torch.nn.functional.linear` without a bias; arguments as of `linear`."""
    rows = x.reshape(-1, x.shape[-1])
    out: Tensor = _Linear.apply(rows, weight, GRADIENTS[way])
    return out.view(*x.shape[:-1], weight.shape[0])


class _Linear(torch.autograd.Function):
    """[N, in] and [out, in] to [N, out]; the input is kept as it is."""

    @staticmethod
    def forward(ctx: Any, x: Tensor, weight: Tensor, gradients: torch.dtype) -> Tensor:
        """Each row of both is scaled."""
        ctx.save_for_backward(x, weight)
        ctx.gradients = gradients
        x8, weight8 = scaled_rows(x, FORWARD), scaled_rows(weight, FORWARD)
        return product(x8, weight8.mT, x.dtype, quick_sums=False)

    @staticmethod
    def backward(ctx: Any, gradient: Tensor) -> tuple[Tensor | None, ...]:
        """The input's from float8 products, the weight's from unrounded values."""
        x, weight = ctx.saved_tensors
        grad_x = grad_weight = None
        if ctx.needs_input_grad[0]:
            # The sum runs over outputs: the weight has a scale for each input.
            columns = scaled_rows(weight.t(), FORWARD)
            grad8 = scaled_rows(gradient, ctx.gradients)
            grad_x = product(grad8, columns.mT, x.dtype, quick_sums=False)
        if ctx.needs_input_grad[1]:
            grad_weight = (gradient.t() @ x).to(weight.dtype)
        return grad_x, grad_weight, None


def fits(weight: Tensor) -> bool:
    """Whether the matrices [E, M, K] of experts can be multiplied so."""
    return not any(side % MULTIPLE for side in weight.shape[-2:])


def grouped_linear_by_rows(x: Tensor, weight: Any, offsets: Tensor) -> Tensor:
    """Rows of expert e times `weight[e].T`, as `lumina.ops.moe.products`.

    Gradients are e4m3 too: the grouped kernel takes no e5m2.

    Args:
        x: [N, K], sorted by expert.
        weight: [E, M, K]; M and K multiples of `MULTIPLE`.
        offsets: [E] int32, where each expert's rows end.

    Returns:
        [N, M] in the type of `x`.
    """
    out: Tensor = _Grouped.apply(x, weight, offsets)
    return out


class _Grouped(torch.autograd.Function):
    """The same for the products of experts."""

    @staticmethod
    def forward(ctx: Any, x: Tensor, weight: Tensor, offsets: Tensor) -> Tensor:
        """Each row of tokens and of every expert's matrix is scaled."""
        ctx.save_for_backward(x, weight, offsets)
        x8, weight8 = scaled_rows(x, FORWARD), scaled_rows(weight, FORWARD)
        return grouped_product(x8, weight8, offsets, x.dtype, quick_sums=False)

    @staticmethod
    def backward(ctx: Any, gradient: Tensor) -> tuple[Tensor | None, ...]:
        """As of `_Linear`, expert by expert."""
        x, weight, offsets = ctx.saved_tensors
        gradient = gradient.contiguous()
        grad_x = grad_weight = None
        if ctx.needs_input_grad[0]:
            turned = weight.transpose(-2, -1).contiguous()
            columns: Scaled = scaled_rows(turned, FORWARD)
            grad8 = scaled_rows(gradient, FORWARD)
            grad_x = grouped_product(grad8, columns, offsets, x.dtype, quick_sums=False)
        if ctx.needs_input_grad[1]:
            grad_weight = _of_weights(gradient, x, offsets).to(weight.dtype)
        return grad_x, grad_weight, None


def _of_weights(gradient: Tensor, x: Tensor, offsets: Tensor) -> Tensor:
    """[E, M, K]: of each expert, gradient [n, M] transposed times rows [n, K]."""
    if x.is_cuda and x.dtype == torch.bfloat16:
        return kernel_mm(gradient.t(), x.t(), offsets)
    ends = offsets.tolist()
    parts = [
        gradient[begin:end].t() @ x[begin:end]
        for begin, end in zip([0, *ends[:-1]], ends, strict=True)
    ]
    return torch.stack(parts)
