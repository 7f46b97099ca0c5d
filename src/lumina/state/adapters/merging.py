"""Weights with adapters added to them, in float32, as each tensor is read."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace
from typing import Any

import torch
from torch import Tensor

from lumina.model.adapters.settings import DEFAULT
from lumina.state.adapters.adapter import Adapter, Piece
from lumina.state.adapters.deltas import delta
from lumina.state.weights import Weights


@dataclass(frozen=True)
class Merged:
    """Weights and what is added to them, in the shape of a checkpoint's reader.

    The changes are added as if each adapter were alone on the base, so their order
    does not matter. A weight that an adapter holds whole counts as its difference from
    the base's.

    Attributes:
        source: of the base.
        adapters: each with the factor of its change.
    """

    source: Any
    adapters: Sequence[tuple[Adapter, float]]

    def names(self) -> list[str]:
        """Logical names."""
        return list(self.source.names())

    @torch.no_grad()
    def tensor(self, name: str) -> Tensor:
        """One tensor, whole; one that is changed is float32."""
        base: Tensor = self.source.tensor(name)
        changes = [
            (change, factor)
            for adapter, factor in self.adapters
            if (change := changed_by(adapter, name, base)) is not None
        ]
        if not changes:
            return base
        merged = base.float().clone()
        for change, factor in changes:
            merged[: change.shape[0]] += change * factor
        return merged

    def close(self) -> None:
        """Release the files."""
        self.source.close()


def changed_by(adapter: Adapter, name: str, base: Tensor) -> Tensor | None:
    """What an adapter adds to a logical tensor.

    Args:
        adapter: as it was read for this model.
        name: logical.
        base: the tensor.

    Returns:
        The change of the first rows, float32, of which a table with a padded vocabulary
        has fewer than `base`; None: the adapter leaves the tensor as it is.
    """
    whole, piece = adapter.replaced.get(name), adapter.pieces.get(name)
    if whole is not None:
        base = base[: whole.shape[0]].float()
        after = whole if piece is None else whole + delta(adapter, piece, whole)
        return after - base
    if piece is not None:
        return delta(adapter, piece, base.float()[: _rows(piece, base)])
    if adapter.method == "ia3" and name.endswith(".bias"):
        factors = adapter.pieces.get(f"{name.removesuffix('bias')}weight")
        if factors is not None and "factors" in factors.tensors:
            return base.float() * (factors.tensors["factors"] - 1)
    return None


def _rows(piece: Piece, base: Tensor) -> int:
    """How many rows of a tensor a piece changes."""
    out = piece.tensors.get("b")
    return base.shape[0] if out is None or out.ndim == 3 else out.shape[0]


def merged(weights: Weights, adapters: Sequence[tuple[Adapter, float]]) -> Weights:
    """The weights with adapters merged into them as they are read.

    Args:
        weights: of the base.
        adapters: each with the factor of its change; 1 as it was trained.
    """
    if not adapters:
        return weights
    return replace(
        weights,
        source=Merged(weights.source, adapters),
        description=f"{weights.description} with {in_words(adapters)}",
    )


def in_words(adapters: Sequence[tuple[Adapter, float]]) -> str:
    """The names of adapters, each with a factor that is not one."""
    names = [
        ("its adapter" if one.name == DEFAULT else one.name, factor)
        for one, factor in adapters
    ]
    return " and ".join(
        name if factor == 1 else f"{factor:g} x {name}" for name, factor in names
    )
