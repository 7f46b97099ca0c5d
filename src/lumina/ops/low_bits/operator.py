"""The product with a matrix in few bits as one operator of torch's.

Being one, it hides the wide matrix from a compiler, which could otherwise keep it from
the forward pass for the backward pass.
"""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor

from lumina.ops.low_bits.codec import Packed, found_codec
from lumina.ops.low_bits.wide import wide, wide_product


@torch.library.custom_op("lumina::low_bit_product", mutates_args=())
def low_bit_product(
    x: Tensor,
    offsets: Tensor | None,
    held: list[Tensor],
    codec: str,
    shape: list[int],
    outputs: list[int],
    mirrored: bool,
) -> Tensor:
    """The product; `mirrored`: with the matrix itself, as the gradient needs it.

    Args:
        x: as in `wide_product`, or its gradient.
        offsets: as there.
        held: the tensors of all pieces, each piece's in the order of `Codec.parts`.
        codec: the name of the codec.
        shape: of the first piece.
        outputs: of each piece.
        mirrored: multiply by the matrix, not by its transpose.
    """
    pieces = listed_pieces(held, codec, shape, outputs)
    if not mirrored and offsets is None and len(shape) == 2:
        found = found_codec(codec)
        return torch.cat([found.linear(x, piece) for piece in pieces], dim=-1)
    weight = wide(pieces, x.dtype)
    if mirrored:
        weight = weight.transpose(-2, -1)
    return wide_product(x, weight, offsets).clone()


def listed_pieces(
    held: list[Tensor], codec: str, shape: list[int], outputs: list[int]
) -> list[Packed]:
    """The pieces that `held` lists."""
    names = list(found_codec(codec).parts(tuple(shape)))
    found = []
    for index, rows in enumerate(outputs):
        tensors = held[index * len(names) : (index + 1) * len(names)]
        whole = (*shape[:-2], rows, shape[-1])
        found.append(Packed(codec, whole, dict(zip(names, tensors, strict=True))))
    return found


@low_bit_product.register_fake
def _(
    x: Tensor,
    offsets: Tensor | None,
    held: list[Tensor],
    codec: str,
    shape: list[int],
    outputs: list[int],
    mirrored: bool,
) -> Tensor:
    return x.new_empty((*x.shape[:-1], shape[-1] if mirrored else sum(outputs)))


def _keep(ctx: Any, inputs: tuple[Any, ...], output: Tensor) -> None:
    _, offsets, held, *settings = inputs
    ctx.save_for_backward(offsets, *held)
    ctx.settings = settings


def _backward(ctx: Any, gradient: Tensor) -> tuple[Any, ...]:
    offsets, *held = ctx.saved_tensors
    codec, shape, outputs, mirrored = ctx.settings
    of_x = low_bit_product(
        gradient.contiguous(), offsets, held, codec, shape, outputs, not mirrored
    )
    return of_x, None, [None] * len(held), None, None, None, None


low_bit_product.register_autograd(_backward, setup_context=_keep)
