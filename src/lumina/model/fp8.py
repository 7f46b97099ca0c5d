"""Linear layers and experts that multiply float8."""

from __future__ import annotations

from functools import partial
from typing import Any

from torch import nn

from lumina.model.layers import Linear
from lumina.model.moe import MoeFeedForward
from lumina.model.network import Network
from lumina.ops import float8
from lumina.ops.float8.linear import MULTIPLE
from lumina.ops.float8.rows import fits
from lumina.ops.moe import grouped

SCALINGS = {"tensor": float8.linear, "rows": float8.linear_by_rows}
"""`Plan.fp8_scaling` -> what multiplies."""


def use_fp8(network: Network, plan: Any) -> None:
    """Let every linear layer of the blocks multiply as `Plan.fp8` says.

    Embeddings, heads and routers stay as they are; so does a layer whose sides are no
    multiples of 16.

    Args:
        network: is changed in place.
        plan: its `fp8` is "e4m3" or "hybrid".
    """
    multiply = SCALINGS[plan.fp8_scaling]
    for layer in fitting_layers(network.backbone.blocks):
        layer.product = partial(multiply, way=plan.fp8)


def use_fp8_experts(network: Network, plan: Any) -> None:
    """Let dropless experts multiply float8 with scales of rows.

    Experts with places, in few bits, with adapters, or whose sides are no multiples of
    16 stay as they are.

    Args:
        network: is changed in place.
        plan: its `fp8` is "e4m3" or "hybrid".
    """
    for layer in fitting_experts(network.backbone.blocks):
        layer.experts = partial(
            grouped.routed_experts, product=float8.grouped_linear_by_rows
        )


def fitting_layers(blocks: nn.Module) -> list[Linear]:
    """The linear layers that can multiply float8."""
    return [
        layer
        for layer in blocks.modules()
        if isinstance(layer, Linear)
        and layer.stored is None
        and not any(side % MULTIPLE for side in layer.weight.shape)
    ]


def fitting_experts(blocks: nn.Module) -> list[MoeFeedForward]:
    """The routed layers whose experts can multiply float8."""
    return [
        layer
        for layer in blocks.modules()
        if isinstance(layer, MoeFeedForward)
        and not layer.stored
        and layer.adapters is None
        and layer.spec.dispatch == "dropless"
        and fits(layer.gate_up)
        and fits(layer.down)
    ]
