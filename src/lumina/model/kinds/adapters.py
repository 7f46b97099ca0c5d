"""Adapters: small tensors beside the matrices of any other kind of model."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from typing import TYPE_CHECKING

from lumina.model.adapters.method import Method, Training
from lumina.model.adapters.settings import AdapterSpec
from lumina.model.adapters.sites import Site, chosen, own_or
from lumina.model.adapters.table import chosen_method
from lumina.model.kinds.kind import Kind, Running
from lumina.model.spec import ModelSpec
from lumina.model.tensors import Declared, Tensors, add

if TYPE_CHECKING:
    from torch import Tensor, nn


class Adapted(Kind):
    """A model with adapters. It comes last: it stands on what the others declare."""

    name = "adapters"

    def applies(self, spec: ModelSpec) -> bool:
        """Whether a model has adapters."""
        return bool(spec.adapters)

    def words(self, spec: ModelSpec) -> list[str]:
        """The method, the rank and the matrices of each adapter."""
        return [in_words(adapter) for adapter in spec.adapters]

    def declare(self, spec: ModelSpec, tensors: Tensors) -> None:
        """The adapters' tensors beside the matrices that they stand on."""
        base = list(tensors.values())
        for adapter in spec.adapters:
            for site in chosen(base, adapter.targets):
                add(tensors, *_declared(adapter, site))

    def finish(
        self, spec: ModelSpec, network: nn.Module, tensors: Mapping[str, Declared]
    ) -> None:
        """Put the adapters onto the network's layers."""
        from lumina.model.adapters.attach import attach

        attach(network, placed(spec, tensors))

    def initialise(self, network: nn.Module) -> None:
        """Those of an adapter that depend on the matrix it stands on."""
        from lumina.model.adapters.attach import start_from_base

        start_from_base(network)

    def gradients(self, running: Running, divisor: Tensor, skip: Tensor) -> None:
        """For methods that look at the gradients of their tensors."""
        import torch

        with torch.no_grad():
            for method, training in _watching(running):
                method.gradients(training, divisor, skip)

    def after(
        self, running: Running, counted: Mapping[str, Tensor], skip: Tensor
    ) -> None:
        """For methods that change their tensors after an update."""
        import torch

        with torch.no_grad():
            for method, training in _watching(running):
                method.after(training)


def _watching(running: Running) -> Iterator[tuple[Method, Training]]:
    """The methods that take part in training, each with an adapter's tensors."""
    watching = {
        adapter.name: chosen_method(adapter.method)
        for adapter in running.plan.spec.adapters
        if chosen_method(adapter.method).watches
    }
    if not watching:
        return
    from lumina.model.adapters.attach import pieces

    tensors: dict[str, dict[str, dict[str, Tensor]]] = {name: {} for name in watching}
    for name, piece, _ in pieces(running.network):
        if name in watching:
            path = f"{piece.site.path}.adapters.{name}.{piece.site.piece}"
            tensors[name][path] = {k: v.data for k, v in piece.tensors.items()}
    slots = {slot.name: slot for slot in running.optimizer.slots}
    for name, method in watching.items():
        yield method, Training(tensors[name], slots, running.plan.steps)


def placed(
    spec: ModelSpec, tensors: Mapping[str, Declared]
) -> list[tuple[AdapterSpec, Site]]:
    """Each adapter with each matrix that it stands on.

    Args:
        spec: the resolved shape.
        tensors: the declarations of its network.
    """
    there = list(tensors.values())
    return [(a, site) for a in spec.adapters for site in chosen(there, a.targets)]


def in_words(adapter: AdapterSpec) -> str:
    """An adapter as "LoRA of rank 16 on q_proj v_proj"."""
    method = chosen_method(adapter.method)
    text = f"{method.words} of rank {adapter.rank} on {' '.join(adapter.targets)}"
    return text if adapter.name == "default" else f"{adapter.name}: {text}"


def _declared(adapter: AdapterSpec, site: Site) -> list[Declared]:
    """The tensors of an adapter on one matrix."""
    method = chosen_method(adapter.method)
    rank = own_or(adapter.ranks, site, adapter.rank)
    return [
        Declared(
            f"{site.path}.adapters.{adapter.name}.{site.piece}.{leaf.name}",
            leaf.shape,
            "adapter" if leaf.kind == "parameter" else "buffer",
            leaf.axes,
            leaf.first,
            kind=leaf.kind,
            used=site.used,
        )
        for leaf in method.leaves(site, rank, adapter.options)
    ]


def adapter_rates(spec: ModelSpec, tensors: Mapping[str, Declared]) -> dict[str, float]:
    """What the learning rates of adapters' tensors are multiplied by, where not by 1.

    Args:
        spec: the resolved shape.
        tensors: the declarations of its network.
    """
    found = {}
    for adapter, site in placed(spec, tensors):
        method = chosen_method(adapter.method)
        for one in _declared(adapter, site):
            rate = method.rate(one.name.rpartition(".")[2], adapter.options)
            if rate != 1.0:
                found[one.name] = rate
    return found


ADAPTED = Adapted()
