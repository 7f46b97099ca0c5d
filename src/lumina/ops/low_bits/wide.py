"""Whole matrices of what is held in few bits, and products with whole matrices."""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import Tensor
from torch.nn import functional as F

from lumina.ops.low_bits.codec import Packed, found_codec
from lumina.ops.moe.products import grouped_linear


def wide(pieces: Sequence[Packed], dtype: torch.dtype) -> Tensor:
    """The whole matrix in `dtype`, of its pieces along the outputs."""
    first = pieces[0]
    codec = found_codec(first.codec)
    outputs = [piece.shape[-2] for piece in pieces]
    device = next(iter(first.tensors.values())).device
    shape = (*first.shape[:-2], sum(outputs), first.shape[-1])
    whole = torch.empty(shape, dtype=dtype, device=device)
    for piece, part in zip(pieces, whole.split(outputs, dim=-2), strict=True):
        codec.decode_into(piece.tensors, part)
    return whole


def wide_product(x: Tensor, weight: Tensor, offsets: Tensor | None = None) -> Tensor:
    """Rows times the transposed matrix.

    Args:
        x: [..., in]; for experts [N, in], sorted by expert, or [E, C, in].
        weight: [out, in] in the type of `x`, or [E, out, in].
        offsets: [E] int32, where each expert's rows end; None: the rows of an expert
            are an entry of the first axis.
    """
    if weight.ndim == 2:
        return F.linear(x, weight)
    if offsets is None:
        return torch.bmm(x, weight.transpose(1, 2))
    return grouped_linear(x, weight, offsets)
