"""Mixture of Experts: routed feed-forwards."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping
from dataclasses import replace
from typing import TYPE_CHECKING, Any

from lumina.model.expert_buffers import buffers
from lumina.model.kinds.kind import Kind, Running, Term, in_layers
from lumina.model.plain_tensors import feedforward, into_residual
from lumina.model.spec import ModelSpec, MoeSpec
from lumina.model.tensors import (
    Declared,
    Piece,
    Shape,
    Tensors,
    add,
    normal,
    orthogonal,
    remove,
)

if TYPE_CHECKING:
    from torch import Tensor, nn

COUNTS, DROPPED = "moe.counts", "moe.dropped"
REROUTED = "moe.rerouted"
PROBABILITY, ROUTER = "moe.probability", "moe.router"

COLLAPSED = 0.1
"""An expert with less than this share of an even load counts as collapsed."""


class Experts(Kind):
    """Layers whose tokens go to a few of many experts."""

    name = "moe"
    title = "Mixture of Experts"
    assumed = "every expert has as many tokens as any other"

    def words(self, spec: ModelSpec) -> list[str]:
        """The experts and how tokens reach them."""
        moe = _moe(spec)
        text = (
            f"{moe.num_experts} experts of {moe.intermediate_size} in "
            f"{in_layers(moe.layers, spec.num_layers)}, {moe.top_k} for each token, "
            f"{moe.dispatch}"
        )
        if moe.overflow != "none":
            text += f" ({moe.overflow}, factor {moe.capacity_factor:g})"
        if moe.shared_experts:
            text += f", {moe.shared_experts} shared"
        if moe.trained:
            text += f", of which {moe.names[-1]} alone trains"
        return [text]

    def answering(self, spec: ModelSpec) -> ModelSpec:
        """That experts trained alone is nothing to a model that answers."""
        return replace(spec, moe=replace(_moe(spec), trained=0))

    def declare(self, spec: ModelSpec, tensors: Tensors) -> None:
        """Routers and experts in place of the feed-forwards of routed layers."""
        for layer in _moe(spec).layers:
            path = f"backbone.blocks.{layer}.feedforward"
            remove(tensors, path)
            add(tensors, *_experts(spec, path), *buffers(_moe(spec), f"{path}."))
            if shared := _moe(spec).shared_size:
                add(tensors, *feedforward(spec, f"{path}.shared", shared))

    def feedforward(self, spec: ModelSpec, layer: int) -> nn.Module | None:
        """The experts of a routed layer."""
        if layer not in _moe(spec).layers:
            return None
        from lumina.model.moe import MoeFeedForward

        return MoeFeedForward(spec, layer)

    def collect(
        self, spec: ModelSpec, layers: list[dict[str, Tensor]]
    ) -> dict[str, Tensor]:
        """Losses add up, counts are stacked by layer."""
        from lumina.model.moe import collect_aux

        return collect_aux([aux for aux in layers if COUNTS in aux])

    def terms(self, spec: ModelSpec) -> Iterable[Term]:
        """The balance of the experts' loads, and the size of the router's logits."""
        moe = _moe(spec)
        yield Term("moe.balance_loss", moe.balance_weight, len(moe.layers))
        yield Term("moe.z_loss", moe.z_loss_weight, len(moe.layers))

    def counts(self, spec: ModelSpec) -> Mapping[str, Shape]:
        """What each routed layer counts.

        Assignments of each expert, those that found no place and, where they may ask
        another expert, those that found one there; the sum of each expert's
        probability, and of the router: the sums of its entropy and of its highest
        probability, and the tokens.
        """
        moe = _moe(spec)
        layers = len(moe.layers)
        by_expert = (layers, moe.num_experts)
        sent_on = {REROUTED: (layers,)} if moe.reserve else {}
        return {
            COUNTS: by_expert,
            DROPPED: (layers,),
            PROBABILITY: by_expert,
            ROUTER: (layers, 3),
        } | sent_on

    def after(
        self, running: Running, counted: Mapping[str, Tensor], skip: Tensor
    ) -> None:
        """The routers' loads, and the biases that balance without a loss."""
        from lumina.model.moe import apply_router_updates

        apply_router_updates(running.network, counted[COUNTS])

    def partly_frozen(self, spec: ModelSpec) -> frozenset[str]:
        """Experts and routers, while one expert trains alone."""
        return frozenset({"expert", "router"} if _moe(spec).trained else ())

    def events(
        self, plan: Any, step: int, counted: Mapping[str, Tensor]
    ) -> Iterable[tuple[str, str, dict[str, Any]]]:
        """Tokens and mean probability of every expert, where the Plan asks for them."""
        every = plan.measures.get("expert_usage")
        if not every or step % every:
            return
        tokens = counted[ROUTER][:, 2]
        probability = counted[PROBABILITY] / tokens.clamp(min=1)[:, None]
        fullest = (counted[COUNTS] / counted[COUNTS].sum(1, keepdim=True)).max().item()
        yield (
            "expert_usage",
            f"the fullest expert has {fullest:.1%} of the assignments of its layer",
            {
                "layers": list(_moe(plan.spec).layers),
                "average_probability": probability.tolist(),
                "token_counts": [
                    [int(x) for x in row] for row in counted[COUNTS].tolist()
                ],
                "total_tokens": [int(x) for x in tokens.tolist()],
            },
        )

    def metrics(self, plan: Any, counted: Mapping[str, Tensor]) -> dict[str, Any]:
        """How the load spreads, how sure the router is, and what found no place.

        Each is a list with one value for each routed layer.
        """
        counts, dropped = counted[COUNTS], counted[DROPPED]
        experts = counts.shape[1]
        assigned = counts.sum(1, keepdim=True).clamp(min=1)
        share = counts / assigned
        entropy = -(share * share.clamp(min=1e-12).log()).sum(1)
        factor = _moe(plan.spec).capacity_factor
        past = (share - factor / experts).clamp(min=0).sum(1)
        even = share * experts
        kept = assigned.squeeze(1) - dropped
        tokens = counted[ROUTER][:, 2].clamp(min=1)
        entropy_of_router, surest = (counted[ROUTER][:, :2] / tokens[:, None]).unbind(1)
        limited = _moe(plan.spec).dispatch == "capacity"
        places = factor * (1 + _moe(plan.spec).reserve) * assigned.squeeze(1)
        sent_on = {}
        if REROUTED in counted:
            share_sent = counted[REROUTED] / assigned.squeeze(1)
            sent_on = {"moe.rerouted_fraction": share_sent.tolist()}
        least, most = counts.min(1).values, counts.max(1).values
        return sent_on | {
            "moe.overflow_fraction": past.tolist(),
            "moe.load": [[round(x, 6) for x in row] for row in share.tolist()],
            "moe.max_violation": (share.max(1).values * experts - 1).tolist(),
            "moe.load_entropy": entropy.tolist(),
            "moe.dead_experts": (counts == 0).sum(1).tolist(),
            "moe.dropped_fraction": (dropped / assigned.squeeze(1)).tolist(),
            "moe.load_variance": even.var(1, correction=0).tolist(),
            "moe.balance_score": (1 - even.std(1, correction=0)).tolist(),
            "moe.router_entropy": entropy_of_router.tolist(),
            "moe.router_confidence": surest.tolist(),
            "moe.experts_per_token": (kept / tokens).tolist(),
            "moe.capacity_utilization": (kept / places).tolist() if limited else None,
            "moe.collapsed_experts": (even < COLLAPSED).sum(1).tolist(),
            "moe.imbalance_ratio": [
                high / low if low else None
                for high, low in zip(most.tolist(), least.tolist(), strict=True)
            ],
        }


def _experts(spec: ModelSpec, path: str) -> Iterator[Declared]:
    """The parameters of a routed layer, without the shared experts."""
    moe, width = _moe(spec), spec.hidden_size
    experts, inner = moe.num_experts, moe.intermediate_size
    used = (moe.top_k, moe.num_experts)
    std = moe.router_init_std or spec.init_std
    yield Declared(
        f"{path}.gate_up",
        (experts, 2 * inner, width),
        "expert",
        ("expert", "gate_up", "hidden"),
        normal(spec.init_std),
        dim=1,
        pieces=(Piece(f"{path}.gate", inner, "ffn"), Piece(f"{path}.up", inner, "ffn")),
        used=used,
    )
    yield Declared(
        f"{path}.down",
        (experts, width, inner),
        "expert",
        ("expert", "hidden", "ffn"),
        into_residual(spec),
        used=used,
    )
    yield Declared(
        f"{path}.router.weight",
        (experts, width),
        "router",
        ("expert", "hidden"),
        orthogonal(std) if moe.router_init == "orthogonal" else normal(std),
    )


def _moe(spec: ModelSpec) -> MoeSpec:
    assert spec.moe is not None
    return spec.moe
