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

AT_ONCE = 1024
"""Bytes of codes of a row that a program reads."""

_tables: dict[tuple[str, torch.device], Tensor] = {}


def _table(name: str, device: torch.device) -> Tensor:
    """The values of codes, [16] or [256] float32, copied to a device once."""
    key = name, device
    if key not in _tables:
        values = CODES if name == "nf4" else dynamic_map(8, signed=True)
        _tables[key] = torch.tensor(values, dtype=torch.float32, device=device)
    return _tables[key]


@triton.jit
def _rounded(x, out_ptr):
    """Float32 numbers with the precision of the result's type."""
    return x.to(out_ptr.dtype.element_ty).to(tl.float32)


@triton.jit
def _place(rows, matrix_stride, columns, out_ptr):
    """The program's row among all matrices, its matrix, its place in it and the result.

    In 64 bits: the experts of a layer may have more than 2**31 numbers. A program has
    one row, so that only these few numbers are.
    """
    row = tl.program_id(0).to(tl.int64)
    matrix, within = row // rows, row % rows
    return row, matrix, within, out_ptr + matrix * matrix_stride + within * columns


@triton.jit
def _store(first, second, to_ptr, at, columns):
    """Two numbers of each byte, side by side."""
    wide = to_ptr.dtype.element_ty
    tl.store(to_ptr + 2 * at, first.to(wide), mask=2 * at < columns)
    tl.store(to_ptr + 2 * at + 1, second.to(wide), mask=2 * at + 1 < columns)


@triton.jit
def _nf4_kernel(
    values_ptr, scale_ptr, scale_scale_ptr, scale_mean_ptr, codes_ptr, map_ptr, out_ptr,
    rows, row_bytes, columns, matrix_stride, groups,
    HALF: tl.constexpr, SCALES: tl.constexpr, DOUBLE: tl.constexpr,
    AT_ONCE: tl.constexpr,
):  # fmt: skip
    row, matrix, within, to_ptr = _place(rows, matrix_stride, columns, out_ptr)
    at = tl.program_id(1) * AT_ONCE + tl.arange(0, AT_ONCE)
    inside = at < row_bytes
    code = tl.load(values_ptr + row * row_bytes + at, mask=inside, other=0)
    code = code.to(tl.int32)
    blocks, block = row_bytes // HALF, at // HALF
    if DOUBLE:
        scale_code = tl.load(scale_ptr + row * blocks + block, mask=inside, other=0)
        group = (within * blocks + block) // SCALES
        scale = tl.load(map_ptr + scale_code.to(tl.int32), mask=inside, other=0.0)
        largest = scale_scale_ptr + matrix * groups + group
        scale = scale * tl.load(largest, mask=inside, other=0.0)
        scale = scale + tl.load(scale_mean_ptr + matrix)
    else:
        scale = tl.load(scale_ptr + row * blocks + block, mask=inside, other=0.0)
    scale = _rounded(scale, out_ptr)
    high = _rounded(tl.load(codes_ptr + (code >> 4)), out_ptr) * scale
    low = _rounded(tl.load(codes_ptr + (code & 15)), out_ptr) * scale
    _store(high, low, to_ptr, at, columns)


@triton.jit
def _integers_kernel(
    values_ptr, scale_ptr, zero_ptr, out_ptr, rows, row_bytes, columns, matrix_stride,
    HALF: tl.constexpr, AT_ONCE: tl.constexpr,
):  # fmt: skip
    row, _, _, to_ptr = _place(rows, matrix_stride, columns, out_ptr)
    at = tl.program_id(1) * AT_ONCE + tl.arange(0, AT_ONCE)
    inside = at < row_bytes
    code = tl.load(values_ptr + row * row_bytes + at, mask=inside, other=0)
    code = code.to(tl.int32)
    group = row * (row_bytes // HALF) + at // HALF
    zero = tl.load(zero_ptr + group, mask=inside, other=0).to(tl.int32)
    scale = _rounded(tl.load(scale_ptr + group, mask=inside, other=0.0), out_ptr)
    low = ((code & 15) - zero).to(tl.float32) * scale
    high = ((code >> 4) - zero).to(tl.float32) * scale
    _store(low, high, to_ptr, at, columns)


@triton.jit
def _rows_kernel(
    values_ptr, scale_ptr, out_ptr, rows, row_bytes, columns, matrix_stride,
    AT_ONCE: tl.constexpr,
):  # fmt: skip
    row, _, _, to_ptr = _place(rows, matrix_stride, columns, out_ptr)
    at = tl.program_id(1) * AT_ONCE + tl.arange(0, AT_ONCE)
    inside = at < columns
    value = tl.load(values_ptr + row * row_bytes + at, mask=inside, other=0.0)
    wide = value.to(tl.float32) * _rounded(tl.load(scale_ptr + row), out_ptr)
    tl.store(to_ptr + at, wide.to(out_ptr.dtype.element_ty), mask=inside)


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
    _rows_kernel[_programs(values)](
        values, tensors["scale"], out, *_sizes(values, out), AT_ONCE=AT_ONCE
    )


def _programs(values: Tensor) -> tuple[int, int]:
    """Rows of all matrices, and parts of a row."""
    assert values.is_contiguous()
    row = values.shape[-1]
    return values.numel() // row, triton.cdiv(row, AT_ONCE)


def _sizes(values: Tensor, out: Tensor) -> tuple[int, int, int, int]:
    """Rows of a matrix, bytes of a row, columns, and from a matrix to the next."""
    rows, columns = out.shape[-2:]
    assert out.stride(-1) == 1 and out.stride(-2) == columns and out.ndim <= 3
    matrix_stride = out.stride(0) if out.ndim == 3 else 0
    return rows, values.shape[-1], columns, matrix_stride
