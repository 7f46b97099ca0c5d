"""The buffers of a routed layer, as declarations."""

from __future__ import annotations

from collections.abc import Iterator

from lumina.model.spec import MoeSpec
from lumina.model.tensors import ZEROS, Declared, Rule, constant, last

LIVE_BUFFERS = ("temperature", "jitter", "expert_dropout", "capacity_share")
"""Scalars of a routed layer that may change between steps; not part of a State."""


def buffers(moe: MoeSpec, prefix: str = "") -> Iterator[Declared]:
    """The buffers of a routed layer: an even load, no bias, the rest as specified."""

    def buffer(name: str, first: Rule, kind: str = "transient") -> Declared:
        shape, axes = ((), ()) if name in LIVE_BUFFERS else (experts, ("expert",))
        return Declared(f"{prefix}{name}", shape, "buffer", axes, first, kind=kind)

    experts = (moe.num_experts,)
    yield buffer("load", constant(1.0 / moe.num_experts), "buffer")
    if moe.bias_update_rate > 0:
        yield buffer("selection_bias", ZEROS, "buffer")
    yield buffer("temperature", constant(moe.temperature))
    yield buffer("jitter", constant(moe.jitter))
    yield buffer("expert_dropout", constant(moe.expert_dropout))
    yield buffer("capacity_share", constant(1.0))
    yield buffer("routing_bias", last(len(moe.names), moe.goal_bias))
