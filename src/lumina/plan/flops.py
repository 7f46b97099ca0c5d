"""Floating-point operations of training, by the convention every MFU here uses."""

from __future__ import annotations

import math
from dataclasses import dataclass

from lumina.model.spec import ModelSpec
from lumina.plan.costs.cost import Share
from lumina.plan.costs.table import costs_of
from lumina.plan.count import (
    Counts,
    block_shapes,
    count_parameters,
    is_routed,
    latent_shapes,
)

CONVENTION = (
    "6 x active non-embedding parameters (the head counts) "
    "+ 6 x layers x heads x head_dim x sequence for causal attention; a block that "
    "takes a share of the tokens counts that share, and its square in attention; a "
    "reasoner counts every update it executes; a registered part adds what it says"
)
"""Printed beside every MFU."""


def flops_per_token(spec: ModelSpec, counts: Counts | None = None) -> float:
    """Operations of forward and backward for one token, recomputation not counted.

    Causal attention looks at S / 2 positions on average: 12 * L * d * (S / 2). Under a
    window of W < S positions the average is W - W^2 / (2 S). Where only a share of the
    tokens goes through a block, both queries and keys are that share. Values narrower
    than keys count as narrow, although kernels get them filled up with zeros.
    """
    counts = counts or count_parameters(spec)
    costs = costs_of(spec)
    for cost in costs:
        whole = cost.flops(spec, counts)
        if whole is not None:
            return whole
    length = spec.seq_length
    window = min(spec.window_size or length, length)
    attended = window - window * window / (2 * length)
    width = spec.num_heads * (spec.head_dim + spec.value_dim) / 2
    products = float(counts.active_non_embedding)
    attending = (cost.attending(spec) for cost in costs)
    looks = float(min(attending, default=spec.num_layers))
    for one in passes(spec):
        attention, feedforward = _block_parameters(spec, one.layer)
        products += (one.attention - one.once) * attention
        if one.shared:
            products -= one.attention * _key_parameters(spec)
        products += (one.feedforward - one.once) * feedforward
        looks += one.attention * one.keys - one.once
    further = sum(cost.further_flops(spec) for cost in costs)
    return 6.0 * products + 12 * looks * width * attended + further


@dataclass(frozen=True)
class Pass:
    """One execution of a block, where it differs from every token's once.

    Attributes:
        attention: share of the tokens that attend.
        keys: share of the tokens they attend to.
        feedforward: share of the tokens that go through the feed-forward.
        once: 1 for the pass that the parameter count stands for, 0 for a further one.
        shared: whether the keys are those of another pass, and none are made.
    """

    layer: int
    attention: float
    keys: float
    feedforward: float
    once: int = 1
    shared: bool = False


def passes(spec: ModelSpec) -> list[Pass]:
    """Blocks that not every token goes through, or not once."""
    found, costs = [], costs_of(spec)
    repeats = [share for cost in costs for share in cost.repeats(spec)]
    shared = not all(cost.repeats_keys(spec) for cost in costs)
    for layer in range(spec.num_layers):
        shares = [s for cost in costs if (s := cost.share(spec, layer)) is not None]
        attention, feedforward = shares[0] if shares else Share()
        if shares:
            found.append(Pass(layer, attention, attention, feedforward))
        if 0 < layer < spec.num_layers - 1:
            found += [
                Pass(
                    layer,
                    s * attention,
                    1.0 if shared else s * attention,
                    s * feedforward,
                    once=0,
                    shared=shared,
                )
                for s in repeats
            ]
    return found


def _block_parameters(spec: ModelSpec, layer: int) -> tuple[int, float]:
    """Parameters a token uses in a block: (attention and its norm, the rest)."""
    attention, feedforward = 0, 0.0
    costs = costs_of(spec)
    for name, shape in block_shapes(spec, is_routed(spec, layer)).items():
        size = math.prod(shape)
        if name.startswith("attention"):
            attention += size
            continue
        used: float = size
        for cost in costs:
            part, whole = cost.used(spec, name)
            used = used * part / whole
        feedforward += used
    return attention, feedforward


def _key_parameters(spec: ModelSpec) -> int:
    """Parameters of a block that only make keys and values."""
    if not spec.mla_kv_rank:
        return 2 * spec.num_kv_heads * spec.head_dim * (
            spec.hidden_size + spec.attention_bias
        ) + (_key_norm(spec))
    shapes = latent_shapes(spec)
    made = ("kv_down.weight", "kv_latent_norm.weight", "kv_up.weight")
    return sum(math.prod(shapes[name]) for name in made)


def _key_norm(spec: ModelSpec) -> int:
    """Weights that normalise keys."""
    key = {"rms": spec.head_dim, "l2": spec.num_kv_heads}
    key["rms_full"] = spec.num_kv_heads * spec.head_dim
    return key.get(spec.qk_norm, 0)
