"""GPTQ in blocks of inputs, by a Cholesky factor, for many matrices at a time.

The row of the inverse Hessian that each input needs is a row of the upper Cholesky
factor of the whole inverse, but for its length (arXiv:2210.17323, step 3); within a
block inputs are updated one by one, and those after it once, by a product (step 2).
"""

from __future__ import annotations

import torch
from torch import Tensor

from lumina.errors import LuminaError
from lumina.ops.gptq.coded import Coded, Grid, prepared

BLOCK = 128
"""Inputs that are updated one by one before the others are."""

_TRIES = 5
"""How often damping is made ten times as much where there is no factor."""


def gptq(
    weight: Tensor,
    hessian: Tensor,
    grid: Grid,
    damping: float = 0.01,
    *,
    act_order: bool = False,
) -> Coded:
    """As `lumina.ops.gptq.reference.gptq`, for matrices side by side.

    Args:
        weight: [..., out, in]; experts are the first axis.
        hessian: [..., in, in] in the same type.
        grid: to round to.
        damping: share of the mean diagonal that is added to it.
        act_order: take inputs in the order of their power, the greatest first; groups
            are then of inputs that are neighbours in this order.

    Raises:
        LuminaError: E303 for a Hessian that is not finite.
    """
    if act_order:
        return _in_order(weight, hessian, grid, damping)
    width, block = weight.shape[-1], _block(grid.group)
    factor = inverse_factor(hessian, damping)
    left = weight.clone()
    codes = torch.empty_like(weight)
    scales, zeros = [], []
    for begin in range(0, width, block):
        end = min(begin + block, width)
        part, errors = left[..., begin:end], []
        for q in range(begin, end):
            if q % grid.group == 0:
                scale, zero = grid.steps(left[..., q : q + grid.group])
                scales.append(scale)
                zeros.append(zero)
            column = part[..., q - begin]
            codes[..., q] = grid.codes(column, scales[-1], zeros[-1])
            held = scales[-1] * (codes[..., q] - zeros[-1])
            row = factor[..., q, q:end]
            error = (column - held) / row[..., :1]
            errors.append(error)
            part[..., q - begin :] -= error[..., None] * row[..., None, :]
        left[..., end:] -= torch.stack(errors, dim=-1) @ factor[..., begin:end, end:]
    group_of = torch.arange(width, device=weight.device) // grid.group
    return Coded(
        codes.to(torch.uint8),
        torch.stack(scales, dim=-1),
        torch.stack(zeros, dim=-1).to(torch.uint8),
        group_of.expand(*weight.shape[:-2], width),
    )


def _in_order(weight: Tensor, hessian: Tensor, grid: Grid, damping: float) -> Coded:
    """Inputs in the order of their power; codes back in their own."""
    power = hessian.diagonal(dim1=-2, dim2=-1)
    order = power.argsort(dim=-1, descending=True, stable=True)
    across = order.unsqueeze(-2)
    permuted = hessian.gather(-1, across.expand(hessian.shape))
    permuted = permuted.gather(-2, order.unsqueeze(-1).expand(hessian.shape))
    found = gptq(
        weight.gather(-1, across.expand(weight.shape)), permuted, grid, damping
    )
    back = order.argsort(dim=-1)
    return Coded(
        found.codes.gather(-1, back.unsqueeze(-2).expand(weight.shape)),
        found.scale,
        found.zero,
        found.group_of.gather(-1, back),
    )


def _block(group: int) -> int:
    """A size at whose ends groups may begin, so that none sees half an update."""
    if group % BLOCK == 0:
        return BLOCK
    return group * max(1, BLOCK // group)


def inverse_factor(hessian: Tensor, damping: float) -> Tensor:
    """The upper Cholesky factor [..., in, in] of the inverse of the damped Hessian.

    Where rounding leaves a Hessian without one, its damping grows tenfold.

    Raises:
        LuminaError: E303 where none is found, as for values that are not finite.
    """
    for _ in range(_TRIES):
        lower, failed = torch.linalg.cholesky_ex(prepared(hessian, damping))
        if not bool(failed.any()):
            inverse = torch.cholesky_inverse(lower)
            upper: Tensor
            upper, failed = torch.linalg.cholesky_ex(inverse, upper=True)
            if not bool(failed.any()):
                return upper
        damping *= 10
    raise LuminaError(
        "E303",
        "the inputs of a matrix give a Hessian that cannot be inverted",
        "these weights or the calibration data are damaged; use other ones",
    )
