"""Mixture of Experts: its options and its shape."""

from __future__ import annotations

import math
from dataclasses import replace
from typing import TYPE_CHECKING, Any

from lumina.errors import LuminaError
from lumina.model.spec import ModelSpec, MoeSpec
from lumina.plan.count import count_parameters
from lumina.plan.kinds.kind import Known, Planned, given_or
from lumina.plan.kinds.moe_scale import OVERFLOW, default_experts, usual_values

if TYPE_CHECKING:
    from lumina.config import Config

GOAL_BIAS = 2.0
"""Added to the logits of experts that serve an active goal: odds of more than seven."""

LOWEST_RATE = 0.5
"""The most a rate is lowered: attention and embeddings still see every token."""


class Experts(Planned):
    """Layers with routed experts."""

    field = "moe"
    switch = "use_moe"
    live = (
        "capacity_factor", "load_balancing_weight", "router_z_loss_weight",
        "routing_temperature", "router_jitter_noise", "expert_dropout",
    )  # fmt: skip
    shapeless = ("routing_temperature",)

    def chosen(self, config: Config) -> bool:
        """Whether `use_moe` is on."""
        return config.moe.use_moe

    def resolve(self, config: Config, spec: ModelSpec, known: Known) -> ModelSpec:
        """The shape with routed layers."""
        return replace(spec, moe=_experts(config, spec))

    def rate(self, spec: ModelSpec) -> tuple[float, str] | None:
        """An expert sees k of E tokens: its gradients are those of smaller batches.

        They are as noisy as those of a batch smaller by k / E; for Adam the rate then
        goes with the root of it (Malladi et al., 2022, arXiv:2205.10287).
        """
        moe = spec.moe
        assert moe is not None
        factor = max(LOWEST_RATE, math.sqrt(moe.top_k / moe.num_experts))
        return factor, f"an expert sees {moe.top_k} of {moe.num_experts} tokens"

    def options(self, spec: ModelSpec) -> dict[str, Any]:
        """The options of the routed layers."""
        moe = spec.moe
        if moe is None:
            return {"use_moe": False}
        pattern, first_dense = _pattern(spec)
        return {
            "use_moe": True,
            "num_experts": moe.num_experts,
            "moe_top_k": moe.top_k,
            "moe_intermediate_size": moe.intermediate_size,
            "moe_pattern": pattern,
            "moe_first_dense": first_dense,
            "moe_shared_experts": moe.shared_experts,
            "moe_score": moe.score,
            "moe_score_scale": moe.score_scale,
            "moe_groups": moe.groups,
            "moe_top_groups": moe.top_groups,
            "moe_bias_update_rate": moe.bias_update_rate,
            "moe_normalise_top_k": moe.normalise_top_k,
            "routing_temperature": moe.temperature,
        }


def routed_layers(
    pattern: str, num_layers: int, first_dense: int = 0
) -> tuple[int, ...]:
    """Indices of the routed blocks, of which none is before block `first_dense`.

    `all`: every block. `interleaved`: every second block, starting with block 1, so
    that the first is dense. `sandwich`: the first and the last block are dense, all
    between them are routed.

    Raises:
        LuminaError: E002 if the pattern leaves no routed block.
    """
    chosen = {
        "all": range(num_layers),
        "interleaved": range(1, num_layers, 2),
        "sandwich": range(1, num_layers - 1),
    }[pattern]
    if chosen and first_dense > chosen[-1]:
        raise LuminaError(
            "E002",
            f"moe_first_dense {first_dense} leaves no routed layer of the {num_layers}",
            f"use at most {chosen[-1]}",
        )
    if not chosen:
        need = 2 if pattern == "interleaved" else 3
        raise LuminaError(
            "E002",
            f"moe_pattern {pattern} routes none of {num_layers} layers",
            f"use --moe-pattern all, or --num-layers {need} or more",
        )
    return tuple(layer for layer in chosen if layer >= first_dense)


def _experts(config: Config, dense: ModelSpec) -> MoeSpec:
    """The routed layers; what was not asked for comes from the scale table."""
    moe = config.moe
    experts = moe.num_experts or default_experts(count_parameters(dense).total)
    if moe.moe_top_k > experts:
        raise LuminaError(
            "E002",
            f"moe_top_k {moe.moe_top_k} is more than num_experts {experts}",
            f"name --num-experts; a model of this size has {experts} by default",
        )
    usual = usual_values(experts)
    given = moe.moe_dispatch, usual.capacity_factor
    dispatch, factor = OVERFLOW.get(moe.overflow, given)
    return MoeSpec(
        num_experts=experts,
        top_k=moe.moe_top_k,
        intermediate_size=moe.moe_intermediate_size or dense.intermediate_size,
        layers=routed_layers(moe.moe_pattern, dense.num_layers, moe.moe_first_dense),
        dispatch=dispatch,
        capacity_factor=given_or(moe.capacity_factor, factor),
        overflow=moe.overflow,
        normalise_top_k=moe.moe_normalise_top_k,
        balance_weight=given_or(moe.load_balancing_weight, usual.balance_weight),
        z_loss_weight=moe.router_z_loss_weight,
        bias_update_rate=moe.moe_bias_update_rate,
        score=moe.moe_score,
        score_scale=moe.moe_score_scale,
        groups=moe.moe_groups,
        top_groups=moe.moe_top_groups,
        shared_experts=moe.moe_shared_experts,
        balance_scope=moe.moe_balance_scope,
        temperature=moe.routing_temperature,
        jitter=moe.router_jitter_noise,
        expert_dropout=moe.expert_dropout,
        router_init=moe.router_init,
        router_init_std=moe.router_init_std,
        skip_unused=moe.skip_unused_experts,
        **_named(config),
    )


def _named(config: Config) -> dict[str, Any]:
    """The fields of one expert that trains alone, or none."""
    if config.train.expert_id is None:
        return {}
    return {
        "names": (config.train.expert_id,),
        "trained": 1,
        "goal_bias": GOAL_BIAS if config.train.default_goal else 0.0,
    }


def _pattern(spec: ModelSpec) -> tuple[str, int]:
    """The pattern, and how many first layers are dense, of a spec's routed layers."""
    assert spec.moe is not None
    layers = spec.moe.layers
    for first_dense in (0, layers[0]):
        for pattern in ("all", "interleaved", "sandwich"):
            try:
                found = routed_layers(pattern, spec.num_layers, first_dense)
            except LuminaError:
                continue
            if found == layers:
                return pattern, first_dense
    raise LuminaError(
        "E002",
        f"no pattern gives routed layers {spec.moe.layers} of {spec.num_layers}",
        "patterns are all, interleaved and sandwich",
    )
