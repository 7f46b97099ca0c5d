"""The tensors of a model: those of a plain transformer, as its kinds change them."""

from __future__ import annotations

import re
from collections.abc import Mapping
from functools import lru_cache
from types import MappingProxyType

from lumina.model.kinds.kind import Kind
from lumina.model.kinds.table import kinds_of
from lumina.model.plain_tensors import plain_transformer
from lumina.model.registry import Part, used_parts
from lumina.model.spec import ModelSpec
from lumina.model.tensors import Declared, FusedPieces, Shape, TensorInfo

_BLOCK = re.compile(r"backbone\.blocks\.(\d+)\.(.+)")


def declared(spec: ModelSpec) -> Mapping[str, Declared]:
    """Every parameter and buffer of the network of a shape, by name."""
    return _declared(spec, kinds_of(spec), tuple(used_parts(spec)))


@lru_cache(maxsize=16)
def _declared(
    spec: ModelSpec, kinds: tuple[Kind, ...], parts: tuple[Part, ...]
) -> Mapping[str, Declared]:
    """The declarations, cached by the shape, its kinds and its registered parts."""
    tensors = plain_transformer(spec)
    for kind in kinds:
        kind.declare(spec, tensors)
    return MappingProxyType(tensors)


def in_block(spec: ModelSpec, layer: int) -> Mapping[str, Declared]:
    """The parameters and buffers of one block, by their names within it."""
    blocks = _in_blocks(spec, kinds_of(spec), tuple(used_parts(spec)))
    return blocks.get(layer, {})


@lru_cache(maxsize=16)
def _in_blocks(
    spec: ModelSpec, kinds: tuple[Kind, ...], parts: tuple[Part, ...]
) -> dict[int, dict[str, Declared]]:
    found: dict[int, dict[str, Declared]] = {}
    for name, one in _declared(spec, kinds, parts).items():
        if (place := _BLOCK.fullmatch(name)) is not None:
            found.setdefault(int(place[1]), {})[place[2]] = one
    return found


def parameters(spec: ModelSpec) -> list[Declared]:
    """The tensors that can train."""
    return [one for one in declared(spec).values() if one.kind == "parameter"]


def fused_pieces(spec: ModelSpec) -> dict[str, FusedPieces]:
    """The fused parameters of a network; all others are logical as they are."""
    return {
        name: FusedPieces(
            one.dim, one.logical_names, tuple(piece.size for piece in one.pieces)
        )
        for name, one in declared(spec).items()
        if one.pieces
    }


def tensor_info(spec: ModelSpec) -> dict[str, TensorInfo]:
    """Role and axes of every tensor that checkpoints hold, by logical name."""
    return {
        name: info
        for one in declared(spec).values()
        if one.saved
        for name, (_, info) in one.logical().items()
    }


def logical_shapes(spec: ModelSpec) -> dict[str, Shape]:
    """Shape of every tensor that checkpoints hold, by logical name."""
    return {
        name: shape
        for one in declared(spec).values()
        if one.saved
        for name, (shape, _) in one.logical().items()
    }
