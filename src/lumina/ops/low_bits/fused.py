"""Matrices in few bits made wide in one pass over memory.

Each kernel computes what `decode` of its codec computes, to the bit: codes and scales
are rounded to the type of the result before they are multiplied, and a product of two
numbers of 16 bits is exact in float32. Written one operation after the other, the same
passes over the matrix several times, with indices of four bytes for each of its
numbers.
"""

from __future__ import annotations

from collections.abc import Mapping

import torch
import triton
import triton.language as tl
from torch import Tensor

from lumina.ops.low_bits.codecs.nf4 import BLOCK, CODES
from lumina.ops.low_bits.codecs.nf4_double import SCALES
from lumina.ops.low_bits.dynamic_map import dynamic_map
from lumina.ops.low_bits.grouped import GROUP

AT_ONCE = 2048
"""Bytes of codes that a program reads."""

_tables: dict[tuple[str, torch.device], Tensor] = {}


def _table(name: str, device: torch.device) -> Tensor:
    """The values of codes, [16] or [256] float32, copied to a device once."""
    key = name, device
    if key not in _tables:
        values = CODES if name == "nf4" else dynamic_map(8, signed=True)
        _tables[key] = torch.tensor(values, dtype=torch.float32, device=device)
    return _tables[key]


@triton.jit
def _place(byte, rows, row_bytes):
    """Matrix, row of it, and byte of the row, of bytes counted over all matrices."""
    row = byte // row_bytes
    return row // rows, row % rows, byte % row_bytes


@triton.jit
def _rounded(x, out_ptr):
    """Float32 numbers with the precision of the result's type."""
    return x.to(out_ptr.dtype.element_ty).to(tl.float32)


@triton.jit
def _store(first, second, out_ptr, matrix, row, at, matrix_stride, columns, inside):
    """Two numbers of each byte, side by side."""
    wide = out_ptr.dtype.element_ty
    to = matrix * matrix_stride + row * columns + 2 * at
    tl.store(out_ptr + to, first.to(wide), mask=inside & (2 * at < columns))
    tl.store(out_ptr + to + 1, second.to(wide), mask=inside & (2 * at + 1 < columns))


@triton.jit
def _nf4_kernel(
    values_ptr, scale_ptr, scale_scale_ptr, scale_mean_ptr, codes_ptr, map_ptr, out_ptr,
    size, rows, row_bytes, columns, matrix_stride, groups,
    HALF: tl.constexpr, SCALES: tl.constexpr, DOUBLE: tl.constexpr,
    AT_ONCE: tl.constexpr,
):  # fmt: skip
    # 64-bit: the experts of a layer may have more than 2**31 numbers.
    byte = tl.program_id(0).to(tl.int64) * AT_ONCE + tl.arange(0, AT_ONCE)
    inside = byte < size
    matrix, row, at = _place(byte, rows, row_bytes)
    code = tl.load(values_ptr + byte, mask=inside, other=0).to(tl.int32)
    if DOUBLE:
        block = row * (row_bytes // HALF) + at // HALF
        scale_code = tl.load(scale_ptr + byte // HALF, mask=inside, other=0)
        group = matrix * groups + block // SCALES
        scale = tl.load(map_ptr + scale_code.to(tl.int32), mask=inside, other=0.0)
        scale = scale * tl.load(scale_scale_ptr + group, mask=inside, other=0.0)
        scale = scale + tl.load(scale_mean_ptr + matrix, mask=inside, other=0.0)
    else:
        scale = tl.load(scale_ptr + byte // HALF, mask=inside, other=0.0)
    scale = _rounded(scale, out_ptr)
    high = _rounded(tl.load(codes_ptr + (code >> 4)), out_ptr) * scale
    low = _rounded(tl.load(codes_ptr + (code & 15)), out_ptr) * scale
    _store(high, low, out_ptr, matrix, row, at, matrix_stride, columns, inside)


@triton.jit
def _integers_kernel(
    values_ptr, scale_ptr, zero_ptr, out_ptr,
    size, rows, row_bytes, columns, matrix_stride,
    HALF: tl.constexpr, AT_ONCE: tl.constexpr,
):  # fmt: skip
    byte = tl.program_id(0).to(tl.int64) * AT_ONCE + tl.arange(0, AT_ONCE)
    inside = byte < size
    matrix, row, at = _place(byte, rows, row_bytes)
    code = tl.load(values_ptr + byte, mask=inside, other=0).to(tl.int32)
    zero = tl.load(zero_ptr + byte // HALF, mask=inside, other=0).to(tl.int32)
    scale = tl.load(scale_ptr + byte // HALF, mask=inside, other=0.0)
    scale = _rounded(scale, out_ptr)
    low = ((code & 15) - zero).to(tl.float32) * scale
    high = ((code >> 4) - zero).to(tl.float32) * scale
    _store(low, high, out_ptr, matrix, row, at, matrix_stride, columns, inside)


@triton.jit
def _rows_kernel(
    values_ptr, scale_ptr, out_ptr, size, rows, columns, matrix_stride,
    AT_ONCE: tl.constexpr,
):  # fmt: skip
    at = tl.program_id(0).to(tl.int64) * AT_ONCE + tl.arange(0, AT_ONCE)
    inside = at < size
    matrix, row, column = _place(at, rows, columns)
    value = tl.load(values_ptr + at, mask=inside, other=0.0).to(tl.float32)
    scale = tl.load(scale_ptr + at // columns, mask=inside, other=0.0)
    wide = value * _rounded(scale, out_ptr)
    to = matrix * matrix_stride + row * columns + column
    tl.store(out_ptr + to, wide.to(out_ptr.dtype.element_ty), mask=inside)


def nf4_into(tensors: Mapping[str, Tensor], out: Tensor) -> None:
    """The wide matrix of `Nf4` or `Nf4Double`.

    Args:
        tensors: that hold it, as `parts` of its codec says.
        out: [..., out, in], with rows that follow each other without a gap.
    """
    values, scale, device = tensors["values"], tensors["scale"], out.device
    double = "scale_scale" in tensors
    spare = tensors.get("scale_scale", scale), tensors.get("scale_mean", scale)
    _nf4_kernel[_programs(values)](
        values, scale, *spare, _table("nf4", device), _table("scales", device), out,
        *_sizes(values, out), tensors["scale_scale"].shape[-1] if double else 0,
        HALF=BLOCK // 2, SCALES=SCALES, DOUBLE=double, AT_ONCE=AT_ONCE,
        enable_fp_fusion=False,
    )  # fmt: skip


def integers_into(tensors: Mapping[str, Tensor], out: Tensor) -> None:
    """The wide matrix of `Int4`; arguments as of `nf4_into`."""
    values = tensors["values"]
    _integers_kernel[_programs(values)](
        values, tensors["scale"], tensors["zero"], out, *_sizes(values, out),
        HALF=GROUP // 2, AT_ONCE=AT_ONCE,
    )  # fmt: skip


def rows_into(tensors: Mapping[str, Tensor], out: Tensor) -> None:
    """The wide matrix of `Int8` or `Fp8`; arguments as of `nf4_into`."""
    values = tensors["values"]
    size, rows, _, columns, matrix_stride = _sizes(values, out)
    _rows_kernel[_programs(values)](
        values, tensors["scale"], out, size, rows, columns, matrix_stride,
        AT_ONCE=AT_ONCE,
    )  # fmt: skip


def _programs(values: Tensor) -> tuple[int]:
    assert values.is_contiguous()
    return (triton.cdiv(values.numel(), AT_ONCE),)


def _sizes(values: Tensor, out: Tensor) -> tuple[int, int, int, int, int]:
    """Bytes of all codes; rows of a matrix; bytes of a row; columns; matrix stride."""
    rows, columns = out.shape[-2:]
    assert out.stride(-1) == 1 and out.stride(-2) == columns and out.ndim <= 3
    matrix_stride = out.stride(0) if out.ndim == 3 else 0
    return values.numel(), rows, values.shape[-1], columns, matrix_stride
