"""A matrix in float8 with its scale, and the product of two such matrices."""

from __future__ import annotations

import contextlib
from collections.abc import Iterator
from typing import NamedTuple

import torch
from torch import Tensor

_WIDENED = [False]
"""Whether products are to be the reference on CUDA, too. Not of one thread alone: the
backward pass of a CUDA device has a thread of its own."""


class Scaled(NamedTuple):
    """A matrix in float8.

    Attributes:
        values: float8 of the shape of the matrix.
        scale: float32, what `values` are multiplied by to be the matrix: [] for all of
            it, [rows, 1] for each row, or [1, columns] for each column.
    """

    values: Tensor
    scale: Tensor

    @property
    def mT(self) -> Scaled:
        """The transposed matrix; no value is moved."""
        return Scaled(self.values.t(), self.scale.t())

    def widened(self) -> Tensor:
        """The matrix in float32."""
        return self.values.float() * self.scale


def scaled(matrix: Tensor, dtype: torch.dtype) -> Scaled:
    """A matrix in float8, so that its largest value becomes the largest of the type.

    A matrix that holds an infinite value or NaN has a scale that is not finite, so that
    what is made of it is not finite either, and the step is skipped.

    Args:
        matrix: [rows, columns] in any floating type.
        dtype: torch.float8_e4m3fn or torch.float8_e5m2.
    """
    most = torch.finfo(dtype).max
    largest = matrix.abs().amax().float()
    scale = _scale(largest, most)
    values = (matrix.float() / scale).clamp(-most, most).to(dtype)
    return Scaled(values, scale)


def scaled_rows(matrix: Tensor, dtype: torch.dtype) -> Scaled:
    """A matrix in float8 with a scale for each row: an outlier coarsens its row alone.

    Args:
        matrix: [..., rows, columns] in any floating type.
        dtype: torch.float8_e4m3fn or torch.float8_e5m2.

    Returns:
        Its scale is [..., rows, 1]; a row that is not finite stays so, as in `scaled`.
    """
    most = torch.finfo(dtype).max
    largest = matrix.abs().amax(dim=-1, keepdim=True).float()
    scale = _scale(largest, most)
    values = (matrix.float() / scale).clamp(-most, most).to(dtype)
    return Scaled(values, scale)


def _scale(largest: Tensor, most: float) -> Tensor:
    """What the largest value is divided by to be the largest of the type.

    A product, not a quotient: a division by a number is rounded differently on CPUs, on
    CUDA and in compiled code. One unit in the last place of a scale sends every value
    that lies half-way between two float8 numbers to the other one, and values in
    bfloat16 often do.
    """
    return largest.clamp(min=1e-30) * (1 / most)


def product(a: Scaled, b: Scaled, dtype: torch.dtype, *, quick_sums: bool) -> Tensor:
    """[N, M]: a [N, K] times b [K, M].

    On CUDA cuBLAS multiplies the 8-bit matrices. Elsewhere they are widened first,
    which is the reference that the tests compare cuBLAS with.

    Args:
        a: row by row in memory on CUDA, with K a multiple of 16; one scale, or [N, 1].
        b: column by column in memory on CUDA, with M a multiple of 16; one scale where
            `a` has one, else [1, M].
        dtype: of the result; with scales of rows and columns bfloat16 on CUDA.
        quick_sums: on CUDA, sum with the few bits that the tensor cores keep rather
            than in float32, which is faster; for products whose error does not matter
            as much as a gradient's.
    """
    if not a.values.is_cuda or _WIDENED[0]:
        return widened_product(a, b, dtype)
    return torch._scaled_mm(
        _along_rows(a.values),
        _along_rows(b.values.t()).t(),
        scale_a=a.scale.contiguous(),
        scale_b=b.scale.contiguous(),
        out_dtype=dtype,
        use_fast_accum=quick_sums,
    )


@contextlib.contextmanager
def widened() -> Iterator[None]:
    """Meanwhile every product is the reference: an emulation of the same quantisation.

    Backward passes have to end inside, too.
    """
    before, _WIDENED[0] = _WIDENED[0], True
    try:
        yield
    finally:
        _WIDENED[0] = before


def widened_product(a: Scaled, b: Scaled, dtype: torch.dtype) -> Tensor:
    """The product of the same 8-bit values in float32: the reference."""
    return (a.widened() @ b.widened()).to(dtype)


def _along_rows(values: Tensor) -> Tensor:
    """The same values, row by row in memory."""
    return values if values.stride(-1) == 1 else values.contiguous()


def grouped_product(
    a: Scaled, b: Scaled, offsets: Tensor, dtype: torch.dtype, *, quick_sums: bool
) -> Tensor:
    """[N, M]: rows of group e times the matrix of group e.

    Args:
        a: values [N, K] with scales [N, 1], sorted by group.
        b: values [E, M, K], each matrix row by row in memory, with scales [E, M, 1]:
            what is multiplied by is its transpose.
        offsets: [E] int32, where the rows of each group end.
        dtype: of the result; bfloat16 on CUDA.
        quick_sums: as of `product`.
    """
    if not a.values.is_cuda or _WIDENED[0]:
        return widened_grouped_product(a, b, offsets, dtype)
    y: Tensor = torch._scaled_grouped_mm(
        a.values,
        b.values.transpose(-2, -1),
        a.scale.squeeze(-1),
        b.scale.squeeze(-1),
        offs=offsets,
        out_dtype=dtype,
        use_fast_accum=quick_sums,
    )
    return y


def widened_grouped_product(
    a: Scaled, b: Scaled, offsets: Tensor, dtype: torch.dtype
) -> Tensor:
    """The product of the same 8-bit values in float32, group by group."""
    rows, matrices = a.widened(), b.widened()
    ends = offsets.tolist()
    y = rows.new_zeros(rows.shape[0], matrices.shape[1])
    for expert, (begin, end) in enumerate(zip([0, *ends[:-1]], ends, strict=True)):
        y[begin:end] = rows[begin:end] @ matrices[expert].T
    return y.to(dtype)
