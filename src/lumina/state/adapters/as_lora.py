"""Adapters of other methods as the LoRA that makes the same change."""

from __future__ import annotations

from dataclasses import replace

import torch

from lumina.state.adapters.adapter import Adapter, Piece


def as_lora(adapter: Adapter) -> Adapter:
    """The same change as LoRA, where a product of two narrow matrices is one.

    PiSSA is what it is now less what it began as, of twice the rank. AdaLoRA has its
    factors in `a`, and the ranks that are left.

    Args:
        adapter: of any method; one of another is returned as it is.
    """
    make = {"pissa": _of_pissa, "adalora": _of_adalora}.get(adapter.method)
    if make is None:
        return adapter
    pieces = {name: make(piece) for name, piece in adapter.pieces.items()}
    return replace(
        adapter,
        method="lora",
        options={},
        pieces={name: piece for name, piece in pieces.items() if piece is not None},
    )


def left_of(piece: Piece) -> Piece:
    """`a`, `b` and `e` of AdaLoRA, without the ranks whose factor is zero.

    Those of experts stay, for experts differ in which are left.
    """
    held = {name: piece.tensors[name] for name in ("a", "b", "e")}
    if held["e"].ndim == 2:
        left = held["e"][:, 0] != 0
        held = {
            "a": held["a"][left],
            "b": held["b"][:, left].contiguous(),
            "e": held["e"][left],
        }
    return Piece(held, piece.rank, piece.alpha)


def _of_pissa(piece: Piece) -> Piece:
    held = piece.tensors
    tensors = {
        "a": torch.cat([held["a"], held["a0"]], dim=-2),
        "b": torch.cat([held["b"], -held["b0"]], dim=-1),
    }
    return Piece(tensors, 2 * piece.rank, 2 * piece.alpha)


def _of_adalora(piece: Piece) -> Piece | None:
    """None where no rank is left."""
    held = left_of(piece).tensors
    rank = held["a"].shape[-2]
    if rank == 0:
        return None
    tensors = {"a": held["a"] * held["e"], "b": held["b"]}
    return Piece(tensors, rank, piece.alpha * rank / piece.rank)
