"""Linear layers of the blocks that multiply float8."""

from __future__ import annotations

from functools import partial
from typing import Any

from torch import nn

from lumina.model.layers import Linear
from lumina.model.network import Network
from lumina.ops import float8
from lumina.ops.float8.linear import MULTIPLE


def use_fp8(network: Network, plan: Any) -> None:
    """Let every linear layer of the blocks multiply as `Plan.fp8` says.

    Embeddings, heads, routers and the matrices of experts are not linear layers of a
    block, and stay as they are; so does a layer whose sides are no multiples of 16.

    Args:
        network: is changed in place.
        plan: its `fp8` is "e4m3" or "hybrid".
    """
    for layer in fitting_layers(network.backbone.blocks):
        layer.product = partial(float8.linear, way=plan.fp8)


def fitting_layers(blocks: nn.Module) -> list[Linear]:
    """The linear layers that can multiply float8."""
    return [
        layer
        for layer in blocks.modules()
        if isinstance(layer, Linear)
        and layer.stored is None
        and not any(side % MULTIPLE for side in layer.weight.shape)
    ]
