"""Putting adapters onto the layers of a network, and choosing which of them act."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from typing import Any

import torch
from torch import nn

from lumina.errors import LuminaError
from lumina.model.adapters.layer import Adapters, Piece
from lumina.model.adapters.settings import AdapterSpec
from lumina.model.adapters.sites import Site


def attach(network: nn.Module, placed: Sequence[tuple[AdapterSpec, Site]]) -> None:
    """Put adapters onto the layers that hold their matrices.

    Args:
        network: on the meta device, where its parameters have no values yet.
        placed: each adapter with each matrix that it stands on.

    Raises:
        LuminaError: E002 for a matrix in a module that adapters cannot stand on.
    """
    for adapter, site in placed:
        layer: Any = network.get_submodule(site.path)
        if not hasattr(layer, "adapters"):
            raise LuminaError(
                "E002",
                f"{site.short} is in a {type(layer).__name__}, on which no adapter can "
                "stand",
                "name other matrices with --lora-target-modules; in a part of your "
                "own, use lumina.model.layers.Linear",
            )
        if layer.adapters is None:
            layer.adapters = Adapters()
        layer.adapters.put(adapter, site)


def adapted_layers(network: nn.Module) -> Iterator[tuple[str, nn.Module]]:
    """The layers of a network that have adapters, by their paths."""
    for path, layer in network.named_modules():
        if isinstance(getattr(layer, "adapters", None), Adapters):
            yield path, layer


def pieces(network: nn.Module) -> Iterator[tuple[str, Piece, nn.Module]]:
    """Every adapter on every matrix: name of the adapter, its piece, the layer."""
    for _, layer in adapted_layers(network):
        adapters: Adapters = layer.adapters  # type: ignore[assignment]
        for name, held in adapters.items():
            for piece in held.values():  # type: ignore[operator]
                yield name, piece, layer


def set_weights(network: nn.Module, weights: Mapping[str, float]) -> None:
    """Choose how much each adapter acts; those that are not named do not act.

    Raises:
        LuminaError: E005 for a name that no adapter of the network has.
    """
    known = {name for name, _, _ in pieces(network)}
    if unknown := sorted(set(weights) - known):
        raise LuminaError(
            "E005",
            f"the network has no adapter {' '.join(unknown)}",
            f"its adapters are {', '.join(sorted(known)) or 'none'}",
        )
    for _, layer in adapted_layers(network):
        adapters: Adapters = layer.adapters  # type: ignore[assignment]
        adapters.weights = {name: float(weights.get(name, 0.0)) for name in adapters}


@torch.no_grad()
def start_from_base(network: nn.Module) -> None:
    """Give those tensors their first values that depend on the base's matrices."""
    for _, piece, layer in pieces(network):
        if not piece.method.starts_from_base:
            continue
        base = piece.rows(layer.dense(piece.site.matrix)).float()  # type: ignore[operator]
        made = piece.method.start(piece.tensors, piece.scale, base, base)
        for name, value in made.items():
            getattr(piece, name).copy_(value)
