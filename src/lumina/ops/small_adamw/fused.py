"""AdamW with small moments in one pass over memory.

The kernels take the steps of `lumina.optim.small_moments` with its codes and its random
bits. A program holds some elements of a parameter: it widens their moments, takes the
step, and stores moments, master and weight.
"""

from __future__ import annotations

from typing import NamedTuple

import triton
import triton.language as tl
from torch import Tensor

BLOCK = 2048
"""Elements of a program of `adamw_bf16_`."""

SCALED = 256
"""Elements that share a scale (`lumina.optim.blocks.BLOCK`)."""

ROWS = 4
"""Blocks of a program of `adamw_coded_`, one above the other."""


class StepScalars(NamedTuple):
    """Numbers of a step, [] float32 on the device.

    Attributes:
        lr: the learning rate.
        divisor: what gradients are divided by.
        skip: 1.0 where nothing may change.
        correction1: what the first moment is divided by, because it began at 0.
        correction2: the same of the second.
    """

    lr: Tensor
    divisor: Tensor
    skip: Tensor
    correction1: Tensor
    correction2: Tensor


class Rates(NamedTuple):
    """Settings of AdamW: decay rates of the moments, epsilon, and weight decay."""

    beta1: float
    beta2: float
    eps: float
    weight_decay: float


@triton.jit
def _moved(
    master, grad, mean, square, lr_ptr, divisor_ptr, correction1_ptr, correction2_ptr,
    beta1, beta2, eps, weight_decay,
):  # fmt: skip
    """Master and moments after a step."""
    lr = tl.load(lr_ptr)
    grad = grad.to(tl.float32) / tl.load(divisor_ptr)
    mean = mean + (1.0 - beta1) * (grad - mean)
    square = square + (1.0 - beta2) * (grad * grad - square)
    denominator = tl.sqrt(square / tl.load(correction2_ptr)) + eps
    update = (mean / tl.load(correction1_ptr)) / denominator
    master = master * (1.0 - lr * weight_decay) - lr * update
    return master, mean, square


@triton.jit
def _mixed(x):
    """`lumina.optim.rounding._mixed` of uint32 numbers, whose products wrap around."""
    x = x ^ (x >> 16)
    x = x * 0x7FEB352D
    x = x ^ (x >> 15)
    x = x * 0x846CA68B
    return x ^ (x >> 16)


@triton.jit
def _rounded(x, bits):
    """Float32 as bfloat16, up or down by the lowest 16 of random bits."""
    raised = x.to(tl.int32, bitcast=True) + (bits & 0xFFFF).to(tl.int32)
    return (raised & -0x10000).to(tl.float32, bitcast=True).to(tl.bfloat16)


@triton.jit(do_not_specialize=["name", "first"])
def _bf16_kernel(
    master_ptr, grad_ptr, mean_ptr, square_ptr, weight_ptr,
    lr_ptr, divisor_ptr, skip_ptr, correction1_ptr, correction2_ptr, steps_ptr,
    name, first, size, beta1, beta2, eps, weight_decay,
    BLOCK: tl.constexpr, APART: tl.constexpr,
):  # fmt: skip
    # A skipped step returns before it reads or writes anything else.
    if tl.load(skip_ptr) != 0.0:
        return
    # 64-bit: one tensor may have more than 2**31 elements.
    at = tl.program_id(0).to(tl.int64) * BLOCK + tl.arange(0, BLOCK)
    inside = at < size
    master, mean, square = _moved(
        tl.load(master_ptr + at, mask=inside),
        tl.load(grad_ptr + at, mask=inside),
        tl.load(mean_ptr + at, mask=inside).to(tl.float32),
        tl.load(square_ptr + at, mask=inside).to(tl.float32),
        lr_ptr, divisor_ptr, correction1_ptr, correction2_ptr,
        beta1, beta2, eps, weight_decay,
    )  # fmt: skip
    step = tl.load(steps_ptr).to(tl.int64).to(tl.uint32)
    key = _mixed(step * 0x1E3779B1 + name.to(tl.uint32))
    place = first + at
    low, high = place.to(tl.uint32), (place >> 32).to(tl.uint32)
    bits = _mixed(_mixed(low ^ key) ^ (high * 0x05EBCA6B + key))
    tl.store(mean_ptr + at, _rounded(mean, bits), mask=inside)
    tl.store(square_ptr + at, _rounded(square, bits >> 16), mask=inside)
    tl.store(master_ptr + at, master, mask=inside)
    if APART:
        tl.store(weight_ptr + at, master.to(weight_ptr.dtype.element_ty), mask=inside)


def adamw_bf16_(
    master: Tensor,
    grad: Tensor,
    mean: Tensor,
    square: Tensor,
    weight: Tensor,
    scalars: StepScalars,
    rates: Rates,
    *,
    steps: Tensor,
    name: int,
    first: int,
) -> None:
    """A step with moments in bfloat16, in place; all tensors contiguous and alike.

    Args:
        master: float32 weights.
        grad: their gradient, in any type.
        mean: bfloat16.
        square: bfloat16.
        weight: what the master is rounded to; may be the master itself.
        scalars: of the step.
        rates: of AdamW.
        steps: [] float32, the number of the step.
        name: CRC-32 of the name of the tensor.
        first: place of the first element in the whole tensor.
    """
    tensors = (master, grad, mean, square, weight)
    assert all(t.is_contiguous() and t.shape == master.shape for t in tensors)
    size = master.numel()
    _bf16_kernel[(triton.cdiv(size, BLOCK),)](
        *tensors, *scalars, steps, name, first, size, *rates,
        BLOCK=BLOCK, APART=weight.data_ptr() != master.data_ptr(), num_warps=8,
    )  # fmt: skip


@triton.jit
def _code_of(
    number, scale, edges_ptr, inside, BITS: tl.constexpr, NEVER_ZERO: tl.constexpr
):
    """The code of the nearest value: how many edges lie below."""
    scaled = number / tl.maximum(scale, 1.1754943508222875e-38)
    code = tl.zeros_like(number).to(tl.int32)
    for power in tl.static_range(BITS):
        half = 1 << (BITS - 1 - power)
        edge = tl.load(edges_ptr + code + (half - 1))
        code = tl.where(edge < scaled, code + half, code)
    if NEVER_ZERO:
        code = tl.where((code == 0) & (number > 0), 1, code)
    return tl.where(inside, code, 0)


@triton.jit
def _coded_kernel(
    master_ptr, grad_ptr, weight_ptr,
    mean_codes_ptr, mean_scales_ptr, square_codes_ptr, square_scales_ptr,
    mean_table_ptr, mean_edges_ptr, square_table_ptr, square_edges_ptr,
    lr_ptr, divisor_ptr, skip_ptr, correction1_ptr, correction2_ptr,
    rows, columns, bytes_of_a_row, scales_of_a_row, beta1, beta2, eps, weight_decay,
    BITS: tl.constexpr, NEVER_ZERO: tl.constexpr, SCALED: tl.constexpr,
    ROWS: tl.constexpr, APART: tl.constexpr,
):  # fmt: skip
    if tl.load(skip_ptr) != 0.0:
        return
    block = tl.program_id(1)
    row = (tl.program_id(0) * ROWS + tl.arange(0, ROWS)).to(tl.int64)[:, None]
    # Of 4 bits, a byte holds the codes of two neighbours: the even column's is low.
    PACKED: tl.constexpr = 8 // BITS
    BYTES: tl.constexpr = SCALED // PACKED
    byte = block * BYTES + tl.arange(0, BYTES)[None, :]
    there = (row < rows) & (byte < bytes_of_a_row)
    byte_at = row * bytes_of_a_row + byte
    scale_at = row * scales_of_a_row + block
    mean_bytes = tl.load(mean_codes_ptr + byte_at, mask=there, other=0).to(tl.int32)
    square_bytes = tl.load(square_codes_ptr + byte_at, mask=there, other=0)
    square_bytes = square_bytes.to(tl.int32)
    mean_scale = tl.load(mean_scales_ptr + scale_at, mask=row < rows, other=0.0)
    square_scale = tl.load(square_scales_ptr + scale_at, mask=row < rows, other=0.0)
    column = byte * PACKED
    at = row * columns + column
    inside = there & (column < columns)
    LOW: tl.constexpr = (1 << BITS) - 1
    master, mean, square = _moved(
        tl.load(master_ptr + at, mask=inside, other=0.0),
        tl.load(grad_ptr + at, mask=inside, other=0.0),
        tl.load(mean_table_ptr + (mean_bytes & LOW)) * mean_scale,
        tl.load(square_table_ptr + (square_bytes & LOW)) * square_scale,
        lr_ptr, divisor_ptr, correction1_ptr, correction2_ptr,
        beta1, beta2, eps, weight_decay,
    )  # fmt: skip
    mean = tl.where(inside, mean, 0.0)
    square = tl.where(inside, square, 0.0)
    tl.store(master_ptr + at, master, mask=inside)
    if APART:
        tl.store(weight_ptr + at, master.to(weight_ptr.dtype.element_ty), mask=inside)
    new_mean_scale = tl.max(tl.abs(mean), axis=1, keep_dims=True)
    new_square_scale = tl.max(tl.abs(square), axis=1, keep_dims=True)
    if PACKED == 2:
        odd_at = at + 1
        odd_inside = there & (column + 1 < columns)
        odd, odd_mean, odd_square = _moved(
            tl.load(master_ptr + odd_at, mask=odd_inside, other=0.0),
            tl.load(grad_ptr + odd_at, mask=odd_inside, other=0.0),
            tl.load(mean_table_ptr + (mean_bytes >> 4)) * mean_scale,
            tl.load(square_table_ptr + (square_bytes >> 4)) * square_scale,
            lr_ptr, divisor_ptr, correction1_ptr, correction2_ptr,
            beta1, beta2, eps, weight_decay,
        )  # fmt: skip
        odd_mean = tl.where(odd_inside, odd_mean, 0.0)
        odd_square = tl.where(odd_inside, odd_square, 0.0)
        tl.store(master_ptr + odd_at, odd, mask=odd_inside)
        if APART:
            odd_weight = odd.to(weight_ptr.dtype.element_ty)
            tl.store(weight_ptr + odd_at, odd_weight, mask=odd_inside)
        odd_scale = tl.max(tl.abs(odd_mean), axis=1, keep_dims=True)
        new_mean_scale = tl.maximum(new_mean_scale, odd_scale)
        odd_scale = tl.max(tl.abs(odd_square), axis=1, keep_dims=True)
        new_square_scale = tl.maximum(new_square_scale, odd_scale)
    mean_codes = _code_of(mean, new_mean_scale, mean_edges_ptr, inside, BITS, False)
    square_codes = _code_of(
        square, new_square_scale, square_edges_ptr, inside, BITS, NEVER_ZERO
    )
    if PACKED == 2:
        mean_codes |= (
            _code_of(odd_mean, new_mean_scale, mean_edges_ptr, odd_inside, BITS, False)
            << 4
        )
        square_codes |= (
            _code_of(
                odd_square, new_square_scale, square_edges_ptr, odd_inside, BITS,
                NEVER_ZERO,
            )
            << 4
        )  # fmt: skip
    tl.store(mean_codes_ptr + byte_at, mean_codes.to(tl.uint8), mask=there)
    tl.store(square_codes_ptr + byte_at, square_codes.to(tl.uint8), mask=there)
    tl.store(mean_scales_ptr + scale_at, new_mean_scale, mask=row < rows)
    tl.store(square_scales_ptr + scale_at, new_square_scale, mask=row < rows)


class CodedMoment(NamedTuple):
    """A moment as codes with scales, and the tables of its code.

    Attributes:
        codes: [..., bytes of a row] uint8.
        scales: [..., blocks of a row] float32.
        table: [2 ** bits] float32, what the codes stand for.
        edges: [2 ** bits - 1] float32, where the nearest value changes.
    """

    codes: Tensor
    scales: Tensor
    table: Tensor
    edges: Tensor


def adamw_coded_(
    master: Tensor,
    grad: Tensor,
    weight: Tensor,
    mean: CodedMoment,
    square: CodedMoment,
    scalars: StepScalars,
    rates: Rates,
    *,
    bits: int,
    never_zero: bool,
) -> None:
    """A step with moments of 8 or 4 bits, in place; all tensors contiguous.

    Args:
        master: float32 weights [..., columns].
        grad: their gradient, in any type.
        weight: what the master is rounded to; may be the master itself.
        mean: the first moment.
        square: the second.
        scalars: of the step.
        rates: of AdamW.
        bits: of a code.
        never_zero: whether a square that is not 0 gets a code that is not 0.
    """
    tensors = (master, grad, weight, *mean[:2], *square[:2])
    assert all(tensor.is_contiguous() for tensor in tensors)
    columns = master.shape[-1]
    rows, blocks = master.numel() // columns, mean.scales.shape[-1]
    _coded_kernel[(triton.cdiv(rows, ROWS), blocks)](
        *tensors, mean.table, mean.edges, square.table, square.edges, *scalars,
        rows, columns, mean.codes.shape[-1], blocks, *rates,
        BITS=bits, NEVER_ZERO=never_zero, SCALED=SCALED, ROWS=ROWS,
        APART=weight.data_ptr() != master.data_ptr(), num_warps=4,
    )  # fmt: skip
