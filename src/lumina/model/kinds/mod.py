"""Mixture of Depths: blocks that take only a share of the tokens."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping
from dataclasses import replace
from typing import TYPE_CHECKING, Any

from lumina.model.aux_keys import DEPTH_COLUMNS
from lumina.model.kinds.kind import (
    Branches,
    Kind,
    Routing,
    Running,
    Term,
    in_layers,
)
from lumina.model.spec import ModelSpec, ModSpec
from lumina.model.tensors import Declared, Rule, Shape, Tensors, add, logit, normal

if TYPE_CHECKING:
    from torch import Tensor, nn

    from lumina.batch import Batch
    from lumina.model.interface import LossSums

CAPACITY = "mod_capacity"
"""The live value that a control sets: the share of the tokens that blocks take."""


class Depths(Kind):
    """Blocks that some tokens pass by."""

    name = "mod"
    title = "Mixture of Depths"
    context = frozenset({"tokens"})

    def words(self, spec: ModelSpec) -> list[str]:
        """Where tokens are chosen, and how."""
        mod = _mod(spec)
        return [
            f"{mod.capacity:.4g} of the tokens go through "
            f"{in_layers(mod.layers, spec.num_layers)} "
            f"({mod.scope}, {mod.routing}, {mod.mode})"
        ]

    def no_graph(self, spec: ModelSpec) -> str:
        """The sizes of its tensors depend on the text."""
        return (
            "which tokens a Mixture-of-Depths block takes depends on the text, and so "
            "do the sizes of its tensors (use_mod)"
        )

    def routing(self, spec: ModelSpec) -> Routing | None:
        """As its options say."""
        return Routing(_mod(spec).mode, _mod(spec).learned)

    def declare(self, spec: ModelSpec, tensors: Tensors) -> None:
        """The router of each chosen block, and the predictor of what it chooses."""
        mod = _mod(spec)
        if not mod.learned:
            return
        drawn = normal(spec.init_std)
        # As many tokens are predicted at first as will be chosen.
        share = logit(min(max(mod.capacity, 0.01), 0.99))
        for layer in mod.layers:
            path = f"backbone.blocks.{layer}.depth"
            add(tensors, _row(f"{path}.router.weight", spec, drawn))
            if mod.predicted:
                name = f"{path}.predictor.bias"
                bias = Declared(name, (1,), "router", ("choice",), share)
                add(tensors, _row(f"{path}.predictor.weight", spec, drawn), bias)

    def block(
        self, spec: ModelSpec, layer: int, branches: Callable[[], Branches]
    ) -> nn.Module | None:
        """A block with a depth router."""
        if layer not in _mod(spec).layers:
            return None
        from lumina.model.depth import DepthBlock

        return DepthBlock(spec, layer, branches())

    def capacity(self, spec: ModelSpec) -> float:
        """As planned; a schedule and a control change it in a run."""
        return _mod(spec).capacity

    def capacities(self, spec: ModelSpec) -> tuple[float, ...]:
        """Those that it is compiled for; none where all tokens are computed."""
        return () if _mod(spec).mode == "static" else _mod(spec).ladder

    def graphs(self, spec: ModelSpec) -> int:
        """One for each capacity that a run may change to."""
        return len(_mod(spec).ladder)

    def collect(
        self, spec: ModelSpec, layers: list[dict[str, Tensor]]
    ) -> dict[str, Tensor]:
        """Losses add up, statistics are stacked by layer."""
        from lumina.model.depth import collect_depth_aux

        depths = [aux for aux in layers if "mod.statistics" in aux]
        return collect_depth_aux(depths) if depths else {}

    def settle(self, spec: ModelSpec, losses: LossSums, batch: Batch) -> None:
        """The losses of chosen and of skipped tokens."""
        if "mod.chosen" in losses.aux:
            from lumina.model.depth import split_losses

            each = losses.terms.get("each")
            losses.aux = split_losses(losses.aux, each, batch.labels)

    def terms(self, spec: ModelSpec) -> Iterable[Term]:
        """The causal predictor's loss."""
        mod = _mod(spec)
        if mod.predicted:
            yield Term("mod.predictor_loss", mod.predictor_weight, len(mod.layers))

    def counts(self, spec: ModelSpec) -> Mapping[str, Shape]:
        """`DEPTH_COLUMNS` of each layer; the split losses where tokens are chosen."""
        mod = _mod(spec)
        shapes: dict[str, Shape] = {
            "mod.statistics": (len(mod.layers), len(DEPTH_COLUMNS))
        }
        return shapes | ({"mod.losses": (4,)} if mod.mode == "dynamic" else {})

    def before(self, running: Running, step: int) -> None:
        """Set the share of tokens that the step takes."""
        running.network.backbone.capacity = capacity_at(running, step)

    def restore_live(
        self, running: Running, held: Mapping[str, Any], before: Mapping[str, Any]
    ) -> None:
        """The share that a control set, unless the options changed since then."""
        mod, then = _mod(running.plan.spec), before.get("mod")
        share = held.get(CAPACITY)
        if share is None or then is None or mod.capacity != then["capacity"]:
            return
        if tuple(then["schedule"]) == mod.schedule:
            running.live.of_kinds[CAPACITY] = share

    def metrics(self, plan: Any, counted: Mapping[str, Tensor]) -> dict[str, Any]:
        """Shares, scores and the predictor by layer, and the losses of both sides.

        `mod.compute_savings` is the percentage of tokens that passed the layers by;
        `mod.flops_reduction` the percentage of a dense model's operations that this
        saves, with the share of the step, which a control may have changed.
        """
        mod = _mod(plan.spec)
        if mod.mode == "static":
            return {}
        columns = counted["mod.statistics"].unbind(1)
        found = dict(zip(DEPTH_COLUMNS, columns, strict=True))
        tokens = found["tokens"].clamp(min=1)
        ratio = found["selected"] / tokens
        mean = ratio.mean().item()
        taken = replace(plan.spec, mod=replace(mod, capacity=mean, schedule=()))
        row: dict[str, Any] = {
            "mod.selected_ratio": ratio.tolist(),
            "mod.compute_savings": 100 * (1 - mean),
            "mod.flops_reduction": plan.replace(spec=taken).flops_saved_by(self.name),
        }
        if mod.learned:
            score = found["score"] / found["selected"].clamp(min=1)
            threshold = found["threshold"] / found["rows"].clamp(min=1)
            row["mod.router_score"] = score.tolist()
            row["mod.threshold"] = threshold.tolist()
            row["mod.predictor_accuracy"] = (found["predicted"] / tokens).tolist()
        return row | _split_losses(counted["mod.losses"])


def capacity_at(running: Running, step: int) -> float:
    """The share of tokens that blocks take after `step` steps.

    The value that a control set, else the part of the schedule that the step is in.
    """
    plan, live = running.plan, running.live
    mod = _mod(plan.spec)
    if CAPACITY in live.of_kinds:
        return float(live.of_kinds[CAPACITY])
    if not mod.schedule:
        return mod.capacity
    length: int = max(plan.steps + plan.schedule_offset, 1)
    part: int = (step + plan.schedule_offset) * len(mod.schedule) // length
    return mod.schedule[min(part, len(mod.schedule) - 1)]


def _split_losses(sums: Tensor) -> dict[str, Any]:
    """Mean loss of the tokens that were chosen, and of those that were not.

    Every token counts on both sides, by the share of the layers that chose it.

    Args:
        sums: [4], see `lumina.model.depth.split_losses`.
    """
    chosen, chosen_share, skipped, skipped_share = sums.tolist()
    return {
        "mod.selected_token_loss": chosen / chosen_share if chosen_share else None,
        "mod.skipped_token_loss": skipped / skipped_share if skipped_share else None,
    }


def _row(name: str, spec: ModelSpec, first: Rule) -> Declared:
    """What gives each token one score."""
    return Declared(name, (1, spec.hidden_size), "router", ("choice", "hidden"), first)


def _mod(spec: ModelSpec) -> ModSpec:
    assert spec.mod is not None
    return spec.mod
