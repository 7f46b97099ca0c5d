"""What an adapter adds to a weight, in float32."""

from __future__ import annotations

import math
from collections.abc import Callable

import torch
from torch import Tensor

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
    return _DELTAS[adapter.method](adapter, piece, base)


def _factor(adapter: Adapter, piece: Piece) -> float:
    """What the product is multiplied by."""
    rank = math.sqrt(piece.rank) if adapter.rank_stabilised else piece.rank
    return piece.alpha / rank


def _lora(adapter: Adapter, piece: Piece, base: Tensor) -> Tensor:
    return piece.tensors["b"] @ piece.tensors["a"] * _factor(adapter, piece)


def _dora(adapter: Adapter, piece: Piece, base: Tensor) -> Tensor:
    turned = base + _lora(adapter, piece, base)
    length = torch.linalg.vector_norm(turned, dim=-1, keepdim=True)
    change: Tensor = piece.tensors["magnitude"].unsqueeze(-1) * turned / length - base
    return change


def _adalora(adapter: Adapter, piece: Piece, base: Tensor) -> Tensor:
    held = piece.tensors
    factor = (piece.alpha or piece.rank) / (piece.rank + 1e-5)
    return held["b"] @ (held["a"] * held["e"]) * factor


def _ia3(adapter: Adapter, piece: Piece, base: Tensor) -> Tensor:
    return base * (piece.tensors["scale"] - 1)


def _loha(adapter: Adapter, piece: Piece, base: Tensor) -> Tensor:
    held = piece.tensors
    product = (held["w1_a"] @ held["w1_b"]) * (held["w2_a"] @ held["w2_b"])
    return product * _factor(adapter, piece)


def _lokr(adapter: Adapter, piece: Piece, base: Tensor) -> Tensor:
    held = piece.tensors
    first, second = (
        held[name] if name in held else held[f"{name}_a"] @ held[f"{name}_b"]
        for name in ("w1", "w2")
    )
    return torch.kron(first, second) * _factor(adapter, piece)


_DELTAS: dict[str, Callable[[Adapter, Piece, Tensor], Tensor]] = {
    "lora": _lora,
    "dora": _dora,
    "adalora": _adalora,
    "ia3": _ia3,
    "loha": _loha,
    "lokr": _lokr,
}
