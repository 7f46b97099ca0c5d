"""Feed-forwards and experts that work on a tile of tokens at a time."""

from __future__ import annotations

from functools import partial
from typing import Any

from torch import Tensor

from lumina.model.layers import FeedForward
from lumina.model.moe import MoeFeedForward, routed_layers
from lumina.model.network import Network
from lumina.ops.low_bits.product import Weight
from lumina.ops.moe import grouped
from lumina.ops.tiled import tiled
from lumina.plan.plan import Plan


def tile(network: Network, plan: Plan) -> None:
    """What the feature of tiles does to a network (`Feature.build`)."""
    for module in network.modules():
        if isinstance(module, FeedForward):
            whole = partial(_dense, module, module.forward, plan.feedforward_tile)
            module.forward = whole  # type: ignore[method-assign]
    for layer in routed_layers(network):
        layer.experts = partial(_experts, layer, plan.feedforward_tile)


def _dense(module: FeedForward, whole: Any, size: int, x: Tensor) -> Tensor:
    """[..., D] to [..., D]."""

    def run(x_td: Tensor, *_: Tensor) -> Tensor:
        y: Tensor = whole(x_td)
        return y

    y_td = tiled(run, [x.reshape(-1, x.shape[-1])], list(module.parameters()), size)
    return y_td.view(*x.shape[:-1], y_td.shape[-1])


def _experts(
    layer: MoeFeedForward,
    size: int,
    x_td: Tensor,
    gate_up: Weight,
    down: Weight,
    ids_tk: Tensor,
    scores_tk: Tensor,
    through: grouped.Through,
) -> Tensor:
    """As `grouped.routed_experts`."""
    given = [one for one in (gate_up, down) if isinstance(one, Tensor)]
    others = [] if layer.adapters is None else list(layer.adapters.parameters())

    def run(x: Tensor, ids: Tensor, scores: Tensor, *weights: Tensor) -> Tensor:
        found = iter(weights)
        first, second = (
            next(found) if isinstance(one, Tensor) else one for one in (gate_up, down)
        )
        return grouped.routed_experts(x, first, second, ids, scores, through)

    return tiled(run, [x_td, ids_tk, scores_tk], [*given, *others], size)
