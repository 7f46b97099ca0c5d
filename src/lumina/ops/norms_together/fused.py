"""RMSNorm and its gradient, one kernel each; of queries and keys together (Triton).

A program takes some rows after another and sums the gradient of the scales over them,
so that the sums of all programs are few and are added up in a fixed order.
"""

from __future__ import annotations

import torch
import triton
import triton.language as tl
from torch import Tensor

PROGRAMS = 256
"""Sums of the gradient of the scales, at most."""

WIDEST = 16_384
"""A row has to fit into a program."""


@triton.jit
def _norm_rows(
    x_ptr, weight_ptr, out_ptr, scale_ptr, first, last, each, width, eps,
    FILLED: tl.constexpr,
):  # fmt: skip
    column = tl.arange(0, FILLED)
    inside = column < width
    weight = tl.load(weight_ptr + column, mask=inside, other=0.0)
    # Rounded to the type of the rows, as a layer that casts its weight does.
    weight = weight.to(x_ptr.dtype.element_ty).to(tl.float32)
    for step in range(each):
        row = first + step
        there = inside & (row < last)
        at = row.to(tl.int64) * width + column
        x = tl.load(x_ptr + at, mask=there, other=0.0).to(tl.float32)
        scale = 1.0 / tl.sqrt(tl.sum(x * x, axis=0) / width + eps)
        tl.store(scale_ptr + row, scale, mask=row < last)
        tl.store(out_ptr + at, x * scale * weight, mask=there)


@triton.jit
def _backward_rows(
    x_ptr, weight_ptr, grad_ptr, scale_ptr, of_x_ptr, sums_ptr, first, last, each,
    width, FILLED: tl.constexpr,
):  # fmt: skip
    column = tl.arange(0, FILLED)
    inside = column < width
    weight = tl.load(weight_ptr + column, mask=inside, other=0.0)
    weight = weight.to(x_ptr.dtype.element_ty).to(tl.float32)
    total = tl.zeros([FILLED], dtype=tl.float32)
    for step in range(each):
        row = first + step
        there = inside & (row < last)
        at = row.to(tl.int64) * width + column
        x = tl.load(x_ptr + at, mask=there, other=0.0).to(tl.float32)
        grad = tl.load(grad_ptr + at, mask=there, other=0.0).to(tl.float32)
        scale = tl.load(scale_ptr + row, mask=row < last, other=0.0)
        normed = x * scale
        scaled = grad * weight
        along = tl.sum(scaled * normed, axis=0) / width
        tl.store(of_x_ptr + at, (scaled - normed * along) * scale, mask=there)
        total += grad * normed
    tl.store(sums_ptr + column, total, mask=inside)


@triton.jit
def _forward_kernel(
    q_ptr, k_ptr, q_weight_ptr, k_weight_ptr, q_out_ptr, k_out_ptr, q_scale_ptr,
    k_scale_ptr, q_rows, k_rows, q_programs, width, eps, each, FILLED: tl.constexpr,
):  # fmt: skip
    program = tl.program_id(0).to(tl.int64)
    if program < q_programs:
        first = program * each
        last = tl.minimum(first + each, q_rows)
        _norm_rows(q_ptr, q_weight_ptr, q_out_ptr, q_scale_ptr, first, last, each,
                   width, eps, FILLED)  # fmt: skip
    else:
        first = (program - q_programs) * each
        last = tl.minimum(first + each, k_rows)
        _norm_rows(k_ptr, k_weight_ptr, k_out_ptr, k_scale_ptr, first, last, each,
                   width, eps, FILLED)  # fmt: skip


@triton.jit
def _backward_kernel(
    q_ptr, k_ptr, q_weight_ptr, k_weight_ptr, q_grad_ptr, k_grad_ptr, q_scale_ptr,
    k_scale_ptr, of_q_ptr, of_k_ptr, q_sums_ptr, k_sums_ptr, q_rows, k_rows, q_programs,
    width, each, FILLED: tl.constexpr,
):  # fmt: skip
    program = tl.program_id(0).to(tl.int64)
    if program < q_programs:
        first = program * each
        last = tl.minimum(first + each, q_rows)
        _backward_rows(q_ptr, q_weight_ptr, q_grad_ptr, q_scale_ptr, of_q_ptr,
                       q_sums_ptr + program * width, first, last, each,
                       width, FILLED)  # fmt: skip
    else:
        place = program - q_programs
        first = place * each
        last = tl.minimum(first + each, k_rows)
        _backward_rows(k_ptr, k_weight_ptr, k_grad_ptr, k_scale_ptr, of_k_ptr,
                       k_sums_ptr + place * width, first, last, each,
                       width, FILLED)  # fmt: skip


def _layout(rows: list[int], width: int) -> tuple[int, list[int], int, int]:
    """Rows of a program, programs of each tensor, width filled up, and warps."""
    each = max(1, triton.cdiv(sum(rows), PROGRAMS))
    filled = triton.next_power_of_2(width)
    warps = min(max(filled // 256, 1), 16)
    return each, [triton.cdiv(count, each) for count in rows], filled, warps


def norms(
    rows: list[Tensor], weights: list[Tensor], eps: float
) -> tuple[list[Tensor], list[Tensor]]:
    """RMSNorm of one tensor, or of queries and keys together.

    Args:
        rows: one or two of [N, D], contiguous, of one type; N > 0.
        weights: [D] of each.
        eps: added to the mean square.

    Returns:
        Of each, the result in its type and, [N] float32, what each row was multiplied
        by.
    """
    width = rows[0].shape[1]
    outs = [torch.empty_like(one) for one in rows]
    scales = [one.new_empty(one.shape[0], dtype=torch.float32) for one in rows]
    counts = [one.shape[0] for one in rows]
    each, programs, filled, warps = _layout(counts, width)
    _forward_kernel[(sum(programs),)](
        rows[0], rows[-1], weights[0], weights[-1], outs[0], outs[-1], scales[0],
        scales[-1], counts[0], counts[-1], programs[0], width, eps, each,
        FILLED=filled, num_warps=warps,
    )  # fmt: skip
    return outs, scales


def norms_backward(
    rows: list[Tensor],
    weights: list[Tensor],
    gradients: list[Tensor],
    scales: list[Tensor],
) -> tuple[list[Tensor], list[Tensor]]:
    """The gradients of rows and of weights; arguments as of `norms` and its result."""
    width = rows[0].shape[1]
    of_rows = [torch.empty_like(one) for one in rows]
    counts = [one.shape[0] for one in rows]
    each, programs, filled, warps = _layout(counts, width)
    sums = [one.new_empty(n, width, dtype=torch.float32)
            for one, n in zip(rows, programs, strict=True)]  # fmt: skip
    _backward_kernel[(sum(programs),)](
        rows[0], rows[-1], weights[0], weights[-1], gradients[0], gradients[-1],
        scales[0], scales[-1], of_rows[0], of_rows[-1], sums[0], sums[-1], counts[0],
        counts[-1], programs[0], width, each, FILLED=filled, num_warps=warps,
    )  # fmt: skip
    of_weights = [
        one.sum(0).to(weight.dtype) for one, weight in zip(sums, weights, strict=True)
    ]
    return of_rows, of_weights
