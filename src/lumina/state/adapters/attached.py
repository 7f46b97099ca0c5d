"""Adapters beside the weights of a model, where they can be switched, and back.

`merging` adds a change to the weights for good. Here the adapter's tensors stay apart,
as in training: on weights of few bits, or for several adapters that take turns.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass, replace
from typing import Any

import torch
from torch import Tensor, nn

from lumina.errors import LuminaError
from lumina.model.adapters.settings import AdapterSpec
from lumina.model.adapters.sites import Site, chosen, own_or, sites
from lumina.model.adapters.table import chosen_method
from lumina.model.declared import declared
from lumina.state.adapters.adapter import Adapter, Piece
from lumina.state.adapters.as_lora import as_lora
from lumina.state.adapters.merging import in_words
from lumina.state.weights import Weights

_ROWS = ("b", "b0", "magnitude", "factors")
"""Tensors of methods of which the first axis is that of the outputs."""


@dataclass(frozen=True)
class Beside:
    """Weights and the tensors of adapters, in the shape of a checkpoint's reader.

    Attributes:
        source: of the base.
        tensors: of the adapters, by their names in the network.
    """

    source: Any
    tensors: dict[str, Tensor]

    @property
    def packed(self) -> Any:
        """Weights of the base that are held in few bits."""
        return getattr(self.source, "packed", {})

    def names(self) -> list[str]:
        """Logical names."""
        return [*self.source.names(), *self.tensors]

    def tensor(self, name: str) -> Tensor:
        """One tensor, whole."""
        held: Tensor = (
            self.tensors[name] if name in self.tensors else self.source.tensor(name)
        )
        return held

    def close(self) -> None:
        """Release the files."""
        self.source.close()


def attached(weights: Weights, adapters: Sequence[tuple[Adapter, float]]) -> Weights:
    """The weights with adapters beside them, each under its own name.

    Args:
        weights: of the base; adapters that it has stay.
        adapters: each with the factor of its change, which
            `lumina.model.adapters.attach.set_weights` changes later.

    Raises:
        LuminaError: E002 for an adapter that can only be merged, by name.
    """
    if not adapters:
        return weights
    plain = replace(weights.spec, adapters=())
    there = {site.logical: site for site in sites(declared(plain).values())}
    taken = {one.name for one in weights.spec.adapters}
    specs: list[AdapterSpec] = []
    tensors: dict[str, Tensor] = {}
    for named, factor in adapters:
        # Beside the weights nothing trains: AdaLoRA needs none of what ranks are
        # chosen by.
        adapter = as_lora(named) if named.method == "adalora" else named
        name = _free_name(adapter.name, taken)
        taken.add(name)
        made = _spec_of(adapter, name, factor, there)
        specs.append(made)
        for logical, piece in adapter.pieces.items():
            tensors |= _tensors(made, there[logical], piece)
    return replace(
        weights,
        spec=replace(weights.spec, adapters=(*weights.spec.adapters, *specs)),
        source=Beside(weights.source, tensors),
        description=f"{weights.description} with {in_words(adapters)}",
    )


def taken_apart(weights: Weights) -> tuple[Weights, list[tuple[Adapter, float]]]:
    """Weights without the adapters beside them, and those adapters.

    Args:
        weights: of a run that trained adapters, or any others, which have none.
    """
    specs = weights.spec.adapters
    if not specs:
        return weights, []
    plain = replace(weights.spec, adapters=())
    tensors = list(declared(plain).values())
    reference = getattr(weights.source, "reference", {})
    plan = weights.source.meta.plan if reference else {}
    storage = str(plan.get("base_storage") or "")
    found = []
    for one in specs:
        method = chosen_method(one.method)
        pieces = {}
        for site in chosen(tensors, one.targets):
            rank = own_or(one.ranks, site, one.rank)
            path = _path(one, site)
            held = {
                leaf.name: weights.source.tensor(f"{path}.{leaf.name}").float()
                for leaf in method.leaves(site, rank, one.options)
            }
            if site.head:
                held |= {
                    leaf: value[: plain.vocab_size]
                    for leaf, value in held.items()
                    if leaf in _ROWS
                }
            pieces[site.logical] = Piece(
                held, rank, own_or(one.alphas, site, one.alpha)
            )
        adapter = Adapter(
            one.name,
            one.method,
            pieces,
            dropout=one.dropout,
            options=one.options,
            base=reference.get("path"),
            base_hash=reference.get("sha256"),
            base_storage=storage,
        )
        found.append((adapter, one.weight))
    return replace(weights, spec=plain, source=_Without(weights.source)), found


@dataclass(frozen=True)
class _Without:
    """A source without the tensors of its adapters."""

    source: Any

    @property
    def packed(self) -> Any:
        """Weights of the base that are held in few bits."""
        return getattr(self.source, "packed", {})

    def names(self) -> list[str]:
        """Logical names."""
        return [name for name in self.source.names() if ".adapters." not in name]

    def tensor(self, name: str) -> Tensor:
        """One tensor, whole."""
        held: Tensor = self.source.tensor(name)
        return held

    def close(self) -> None:
        """Release the files."""
        self.source.close()


def _spec_of(
    adapter: Adapter,
    name: str,
    factor: float,
    there: dict[str, Site],
) -> AdapterSpec:
    """The settings under which the network makes room for an adapter.

    Raises:
        LuminaError: E002 for what can only be merged.
    """
    _require_attachable(adapter, there)
    ranks = Counter(piece.rank for piece in adapter.pieces.values())
    alphas = Counter(piece.alpha for piece in adapter.pieces.values())
    rank, alpha = ranks.most_common(1)[0][0], alphas.most_common(1)[0][0]
    short = {logical: there[logical].short for logical in adapter.pieces}
    return AdapterSpec(
        name=name,
        method=adapter.method,
        rank=rank,
        alpha=alpha,
        targets=tuple(short.values()),
        weight=factor,
        ranks={
            short[n]: piece.rank
            for n, piece in adapter.pieces.items()
            if piece.rank != rank
        },
        alphas={
            short[n]: piece.alpha
            for n, piece in adapter.pieces.items()
            if piece.alpha != alpha
        },
        options=dict(adapter.options),
    )


def _require_attachable(adapter: Adapter, there: dict[str, Site]) -> None:
    """Refuse what a network has no place for beside its weights."""
    if adapter.replaced:
        raise _only_merged(adapter, f"it holds {next(iter(adapter.replaced))} whole")
    for logical, piece in adapter.pieces.items():
        site = there.get(logical)
        if site is None:
            raise _only_merged(adapter, f"it changes {logical}")
        method = chosen_method(adapter.method)
        wanted = {
            leaf.name: leaf.shape
            for leaf in method.leaves(site, piece.rank, adapter.options)
        }
        shapes = {n: tuple(t.shape) for n, t in _padded(site, piece).items()}
        if shapes != {name: tuple(shape) for name, shape in wanted.items()}:
            raise _only_merged(
                adapter, f"its tensors on {logical} have shapes {shapes}"
            )


def _only_merged(adapter: Adapter, why: str) -> LuminaError:
    return LuminaError(
        "E002",
        f"{adapter.name} cannot stand beside the weights: {why}",
        "merge it: `lumina adapters merge MODEL NEW-RUN --adapter FOLDER`",
    )


def _path(adapter: AdapterSpec, site: Site) -> str:
    """What the names of an adapter's tensors on a matrix begin with."""
    return f"{site.path}.adapters.{adapter.name}.{site.piece}"


def _padded(site: Site, piece: Piece) -> dict[str, Tensor]:
    """The tensors of a piece; of a head, with rows for the padded vocabulary."""
    tensors = dict(piece.tensors)
    for leaf in _ROWS if site.head else ():
        if leaf in tensors:
            value = tensors[leaf]
            missing = value.new_zeros(site.shape[-2] - value.shape[0], *value.shape[1:])
            tensors[leaf] = torch.cat([value, missing])
    return tensors


def _tensors(spec: AdapterSpec, site: Site, piece: Piece) -> dict[str, Tensor]:
    """The tensors of a piece under their names in the network."""
    path = _path(spec, site)
    return {f"{path}.{name}": one for name, one in _padded(site, piece).items()}


def _free_name(name: str, taken: set[str]) -> str:
    """A name that a module can have, and no other adapter has."""
    plain = "".join(c if c.isalnum() or c in "-_" else "_" for c in name) or "adapter"
    while plain in taken or hasattr(nn.ModuleDict(), plain):
        plain += "_"
    return plain
