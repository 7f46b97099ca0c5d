"""What an adapter adds to a weight, in float32."""

from __future__ import annotations

from torch import Tensor

from lumina.model.adapters.table import chosen_method
from lumina.state.adapters.adapter import Adapter, Piece


def delta(adapter: Adapter, piece: Piece, base: Tensor) -> Tensor:
    """What a piece adds to its weight.

    Args:
        adapter: that the piece is of.
        piece: one of its pieces.
        base: the weight, [..., out, in] float32.

    Returns:
        A tensor of the shape of `base`, float32.
    """
    method = chosen_method(adapter.method)
    scale = method.scale(piece.alpha, piece.rank)
    return method.delta(piece.tensors, scale, base)
