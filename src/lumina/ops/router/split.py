"""A float32 product on bfloat16 tensor cores, as exact as one in float32.

A float32 number is the sum of three bfloat16 numbers (3 x 8 bits of mantissa for 24),
and a product of two bfloat16 numbers is exact in float32, where tensor cores add up. So
`x @ w.T` with x in bfloat16 already is one product with the three parts of w side by
side, whose three results are added. Nothing is ever held in float32 at the size of x,
neither for the product nor for its gradient. The idea is that of Ootomo and Yokota,
2022 (arXiv:2203.03341), with bfloat16 parts.
"""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor
from torch.nn import functional as F

ALIGNED = 8
"""Columns a product is filled up to: what 16-byte loads of bfloat16 want."""


def parts(value: Tensor, count: int) -> list[Tensor]:
    """`count` bfloat16 tensors that add up to a float32 one, the largest first."""
    found = []
    for _ in range(count):
        part = value.to(torch.bfloat16)
        found.append(part)
        value = value - part.float()
    return found


def _stacked(pieces: list[Tensor]) -> Tensor:
    """[n, *] pieces one under the other, filled up with zeros to `ALIGNED` rows."""
    stack = torch.cat(pieces)
    return F.pad(stack, (0, 0, 0, -len(stack) % ALIGNED))


def _product(a: Tensor, b: Tensor) -> Tensor:
    """bfloat16 [M, K] x [K, N], added up in float32 and kept so."""
    if not a.is_cuda:
        return a.float() @ b.float()
    return torch.mm(a, b, out_dtype=torch.float32)


def _folded(sums_nd: Tensor, experts: int) -> Tensor:
    """The three results of a stacked product [3E + filling, *] added up."""
    return sums_nd[: 3 * experts].view(3, experts, -1).sum(0)


@torch.library.custom_op("lumina::split_linear", mutates_args=())
def split_linear(x_td: Tensor, weight_ed: Tensor) -> Tensor:
    """Logits [T, E] float32 of bfloat16 tokens [T, D] and a float32 weight [E, D]."""
    stack_nd = _stacked(parts(weight_ed, 3))
    return _folded(_product(x_td, stack_nd.t()).t(), len(weight_ed)).t().contiguous()


@split_linear.register_fake
def _(x_td: Tensor, weight_ed: Tensor) -> Tensor:
    return x_td.new_empty((x_td.shape[0], weight_ed.shape[0]), dtype=torch.float32)


@torch.library.custom_op("lumina::split_linear_backward", mutates_args=())
def split_linear_backward(
    grad_te: Tensor, x_td: Tensor, weight_ed: Tensor
) -> tuple[Tensor, Tensor]:
    """Gradients of x, [T, D] bfloat16, and of the weight, [E, D] float32.

    x's is rounded to bfloat16 in the end, so two parts of either side and three of
    their four products are enough: the fourth is below 2**-16 of the largest.
    """
    columns_et = grad_te.t().contiguous()
    high_et, low_et, rest_et = parts(columns_et, 3)
    weight_high, weight_low = parts(weight_ed, 2)
    left_nt = _stacked([high_et, high_et, low_et])
    right_nd = _stacked([weight_high, weight_low, weight_high])
    if x_td.is_cuda:
        grad_td = torch.mm(left_nt.t(), right_nd)
    else:
        grad_td = (left_nt.float().t() @ right_nd.float()).to(x_td.dtype)
    sums_nd = _product(_stacked([high_et, low_et, rest_et]), x_td)
    return grad_td, _folded(sums_nd, len(weight_ed)).contiguous()


@split_linear_backward.register_fake
def _(grad_te: Tensor, x_td: Tensor, weight_ed: Tensor) -> tuple[Tensor, Tensor]:
    return torch.empty_like(x_td), torch.empty_like(weight_ed)


def _save(ctx: Any, inputs: tuple[Tensor, Tensor], output: Tensor) -> None:
    ctx.save_for_backward(*inputs)


def _backward(ctx: Any, grad_te: Tensor) -> tuple[Tensor, Tensor]:
    grads: tuple[Tensor, Tensor] = split_linear_backward(grad_te, *ctx.saved_tensors)
    return grads


split_linear.register_autograd(_backward, setup_context=_save)
