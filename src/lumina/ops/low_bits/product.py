"""Products with matrices in few bits, which have a gradient of the input alone.

The matrix is widened for the product and again for the gradient: between the two, only
its few bits are held.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Protocol

import torch
from torch import Tensor

from lumina.ops.low_bits.codec import Packed, Shape, found_codec
from lumina.ops.low_bits.wide import wide, wide_product


class Held(Protocol):
    """A frozen matrix that is held in few bits, or one for each expert."""

    @property
    def shape(self) -> Shape:
        """Of the matrix."""

    def multiplied(self, x: Tensor, offsets: Tensor | None = None) -> Tensor:
        """As `product` of all its pieces."""

    def wide(self, dtype: torch.dtype) -> Tensor:
        """The matrix in `dtype`."""


Weight = Tensor | Held
"""A matrix for `multiplied`."""


def multiplied(x: Tensor, weight: Weight, offsets: Tensor | None = None) -> Tensor:
    """The product of rows and a matrix; arguments as in `wide_product`."""
    if isinstance(weight, Tensor):
        return wide_product(x, weight, offsets)
    return weight.multiplied(x, offsets)


def as_tensor(weight: Weight, dtype: torch.dtype) -> Tensor:
    """A matrix as a tensor of `dtype`."""
    return weight.to(dtype) if isinstance(weight, Tensor) else weight.wide(dtype)


def product(
    x: Tensor, pieces: Sequence[Packed], offsets: Tensor | None = None
) -> Tensor:
    """The product of rows and the matrix whose outputs the pieces are, one by one.

    Args:
        x: as in `wide_product`.
        pieces: of one codec, alike in all axes but that of the outputs.
        offsets: as in `wide_product`.

    Returns:
        [..., out] in the type of `x`, with a gradient of `x` alone.
    """
    first = pieces[0]
    codec = found_codec(first.codec)
    if not (torch.is_grad_enabled() and x.requires_grad):
        if offsets is None and len(first.shape) == 2:
            parts = [codec.linear(x, piece) for piece in pieces]
            return parts[0] if len(parts) == 1 else torch.cat(parts, dim=-1)
        return wide_product(x, wide(pieces, x.dtype), offsets)
    # Only here, since operators load torch's compiler, which takes seconds.
    from lumina.ops.low_bits.operator import low_bit_product

    names = list(codec.parts(first.shape))
    tensors = [piece.tensors[name] for piece in pieces for name in names]
    outputs = [piece.shape[-2] for piece in pieces]
    shape = list(first.shape)
    y: Tensor = low_bit_product(x, offsets, tensors, codec.name, shape, outputs, False)
    return y
