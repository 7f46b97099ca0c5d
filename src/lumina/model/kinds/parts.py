"""Registered parts: blocks, attentions, backbones and objectives from plug-ins."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping
from typing import TYPE_CHECKING, Any

from lumina.model.kinds.kind import Branches, Kind, Running, Term
from lumina.model.registry import reported, used_parts
from lumina.model.spec import ModelSpec, PartsSpec
from lumina.model.tensors import Shape, Tensors, add, remove

if TYPE_CHECKING:
    from torch import Tensor, nn

    from lumina.batch import Batch
    from lumina.model.interface import LossSums


class Parts(Kind):
    """Parts of a plug-in in place of Lumina's own.

    A part declares losses (`reports`) and counts (`counts`), and its class may have the
    static methods `metrics` and `after`; see `lumina.model.registry`.
    """

    name = "parts"
    title = "model with registered parts"
    context = frozenset({"starts"})

    def words(self, spec: ModelSpec) -> list[str]:
        """Each part and where it stands."""
        return [f"registered: {text}" for text in _parts(spec).words()]

    def loading_options(self, spec: ModelSpec) -> list[str]:
        """The plug-ins that its parts come from."""
        own = _parts(spec).plugins
        return ["--plugins", *own] if own else []

    def no_graph(self, spec: ModelSpec) -> str:
        """Its parts may do anything."""
        return (
            "it has registered parts of your own, whose state and code a graph "
            "cannot promise to hold (plugins)"
        )

    def declare(self, spec: ModelSpec, tensors: Tensors) -> None:
        """The tensors of registered parts in place of Lumina's own."""
        from lumina.model.parts import part_tensors

        for path, declared in part_tensors(spec).items():
            remove(tensors, path)
            add(tensors, *declared)

    def attention(self, spec: ModelSpec, layer: int) -> nn.Module | None:
        """The registered attention of a layer."""
        return _of_layer(spec, "attention", layer)

    def feedforward(self, spec: ModelSpec, layer: int) -> nn.Module | None:
        """The registered feed-forward of a layer."""
        return _of_layer(spec, "feedforward", layer)

    def block(
        self, spec: ModelSpec, layer: int, branches: Callable[[], Branches]
    ) -> nn.Module | None:
        """A registered block, or one around registered branches."""
        from lumina.model.parts import PartedBlock, WholeBlock

        parts = _parts(spec)
        if name := parts.at("block", layer):
            return WholeBlock(spec, layer, name)
        if parts.at("attention", layer) or parts.at("feedforward", layer):
            return PartedBlock(spec, branches())
        return None

    def backbone(self, spec: ModelSpec, attention: str) -> nn.Module | None:
        """The registered backbone."""
        return _whole(spec, "backbone", attention)

    def objective(self, spec: ModelSpec, loss_chunk_bytes: int) -> nn.Module | None:
        """The registered objective."""
        return _whole(spec, "objective", loss_chunk_bytes)

    def collect(
        self, spec: ModelSpec, layers: list[dict[str, Tensor]]
    ) -> dict[str, Tensor]:
        """The sums that attention, feed-forward and blocks report."""
        from lumina.model.parts import collect_reports

        return collect_reports(spec, layers)

    def settle(self, spec: ModelSpec, losses: LossSums, batch: Batch) -> None:
        """The sums that a backbone and an objective report."""
        from lumina.model.parts import whole_reports

        losses.aux = whole_reports(spec, losses.aux, losses.terms)

    def terms(self, spec: ModelSpec) -> Iterable[Term]:
        """The losses that parts declare."""
        for part, key, weight, layers in reported(spec):
            yield Term(key, weight, layers, taught=part.kind == "objective")

    def counts(self, spec: ModelSpec) -> Mapping[str, Shape]:
        """The counts that parts declare; those of layers are added up."""
        return {
            key: tuple(shape)
            for part in used_parts(spec)
            for key, shape in part.counts.items()
        }

    def after(
        self, running: Running, counted: Mapping[str, Tensor], skip: Tensor
    ) -> None:
        """The static methods `after(network, counted, skip)` of the parts."""
        for part in used_parts(running.plan.spec):
            if (hook := part.hook("after")) is not None:
                hook(running.network, counted, skip)

    def metrics(self, plan: Any, counted: Mapping[str, Tensor]) -> dict[str, Any]:
        """The static methods `metrics(spec, counted)` of the parts."""
        row: dict[str, Any] = {}
        for part in used_parts(plan.spec):
            if (hook := part.hook("metrics")) is not None:
                row |= hook(plan.spec, {key: counted[key] for key in part.counts})
        return row


def _of_layer(spec: ModelSpec, kind: str, layer: int) -> nn.Module | None:
    name = _parts(spec).at(kind, layer)
    if not name:
        return None
    from lumina.model.parts import build_part

    return build_part(spec, kind, name, layer)


def _whole(spec: ModelSpec, kind: str, argument: str | int) -> nn.Module | None:
    name: str = getattr(_parts(spec), kind)
    if not name:
        return None
    from lumina.model.parts import build_part

    return build_part(spec, kind, name, argument)


def _parts(spec: ModelSpec) -> PartsSpec:
    assert spec.parts is not None
    return spec.parts
