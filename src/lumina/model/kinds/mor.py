"""Mixture of Recursions: tokens pass through shared blocks several times."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from typing import TYPE_CHECKING, Any

from lumina.model.kinds.kind import Kind, Routing, Running, Term
from lumina.model.spec import ModelSpec, MorSpec
from lumina.model.tensors import Declared, Shape, Tensors, add, constant, normal

if TYPE_CHECKING:
    from torch import Tensor, nn

STATISTICS = "mor.statistics"


class Recursions(Kind):
    """Blocks that some tokens pass through again."""

    name = "mor"
    title = "Mixture of Recursions"
    context = frozenset({"tokens"})

    def words(self, spec: ModelSpec) -> list[str]:
        """Which layers are passed again, and how."""
        mor = _mor(spec)
        how = "token choice" if mor.by_token else mor.mode
        if mor.kv_sharing:
            how += ", keys of the first pass"
        return [
            f"layers 1 to {spec.num_layers - 2} are passed up to {mor.recursions} "
            f"times ({how})"
        ]

    def no_graph(self, spec: ModelSpec) -> str:
        """The sizes of its tensors depend on the text."""
        return (
            "which tokens recur depends on the text, and so do the sizes of the "
            "tensors (use_mor)"
        )

    def routing(self, spec: ModelSpec) -> Routing | None:
        """That of its passes; tokens that choose by themselves do so in one way."""
        mor = _mor(spec)
        return None if mor.recursions < 2 or mor.by_token else Routing(mor.mode)

    def declare(self, spec: ModelSpec, tensors: Tensors) -> None:
        """The router of the passes, and the load of the depths that tokens choose."""
        mor, path = _mor(spec), "backbone.recursion"
        if mor.recursions < 2:
            return
        shape, axes = (mor.routers, spec.hidden_size), ("recursion", "hidden")
        name, first = f"{path}.router.weight", normal(spec.init_std)
        add(tensors, Declared(name, shape, "router", axes, first))
        if mor.by_token:
            add(
                tensors,
                Declared(
                    f"{path}.load",
                    (mor.recursions,),
                    "buffer",
                    ("recursion",),
                    constant(1.0 / mor.recursions),
                    kind="buffer",
                ),
            )

    def recursion(self, spec: ModelSpec) -> nn.Module | None:
        """What passes tokens through the blocks again; nothing for a single pass."""
        if _mor(spec).recursions < 2:
            return None
        from lumina.model.recursion import build_recursion

        return build_recursion(spec)

    def graphs(self, spec: ModelSpec) -> int:
        """One for each pass."""
        return _mor(spec).recursions

    def terms(self, spec: ModelSpec) -> Iterable[Term]:
        """The losses of the routers."""
        mor = _mor(spec)
        if mor.recursions < 2:
            return
        if mor.by_token:
            yield Term("mor.balance_loss", mor.balance_weight)
            yield Term("mor.z_loss", mor.z_loss_weight)
        elif mor.mode != "static":
            weight = mor.router_loss_weight
            yield Term("mor.router_loss", weight, mor.recursions - 1)

    def counts(self, spec: ModelSpec) -> Mapping[str, Shape]:
        """Tokens in each pass, and a second number that depends on the routing."""
        mor = _mor(spec)
        return {STATISTICS: (mor.recursions, 2)} if mor.recursions > 1 else {}

    def after(
        self, running: Running, counted: Mapping[str, Tensor], skip: Tensor
    ) -> None:
        """The loads of the depths, where tokens choose theirs."""
        mor = _mor(running.plan.spec)
        if mor.recursions > 1 and mor.by_token:
            running.network.backbone.recursion.take_load(counted[STATISTICS])

    def metrics(self, plan: Any, counted: Mapping[str, Tensor]) -> dict[str, Any]:
        """How deep tokens went."""
        mor = _mor(plan.spec)
        if mor.recursions < 2:
            return {}
        describe = _chosen_by_tokens if mor.by_token else _chosen_by_passes
        return describe(counted[STATISTICS])


def _chosen_by_passes(statistics: Tensor) -> dict[str, Any]:
    """How deep tokens went, where passes chose them.

    `mor.depth_share` is the share of tokens in each pass, `mor.mean_depth` their mean
    number of passes, `mor.router_accuracy` the share of each router's candidates whose
    logit alone agrees with the choice.

    Args:
        statistics: [recursions, 2], tokens in a pass, and tokens judged rightly.
    """
    entered, agreed = statistics.unbind(1)
    share = entered / entered[0].clamp(min=1)
    return {
        "mor.depth_share": share.tolist(),
        "mor.mean_depth": share.sum().item(),
        "mor.router_accuracy": (agreed[1:] / entered[:-1].clamp(min=1)).tolist(),
    }


def _chosen_by_tokens(statistics: Tensor) -> dict[str, Any]:
    """How deep tokens went, where each token chose its depth.

    `mor.depth_share` and `mor.mean_depth` as above; `mor.choice_share` is the share of
    tokens that chose each depth, `mor.dropped_fraction` the share that found no place
    in a pass that they had chosen.

    Args:
        statistics: [recursions, 2], tokens in a pass, and tokens that chose its depth.
    """
    entered, chosen = statistics.unbind(1)
    tokens = entered[0].clamp(min=1)
    wanted = chosen.flip(0).cumsum(0).flip(0)
    return {
        "mor.depth_share": (entered / tokens).tolist(),
        "mor.mean_depth": (entered / tokens).sum().item(),
        "mor.choice_share": (chosen / tokens).tolist(),
        "mor.dropped_fraction": ((wanted - entered) / tokens).tolist(),
    }


def _mor(spec: ModelSpec) -> MorSpec:
    assert spec.mor is not None
    return spec.mor
