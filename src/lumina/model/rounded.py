"""Weights that are rounded to few bits in each forward pass while they train.

Quantisation-aware training with a straight-through estimator (Bengio et al., 2013,
arXiv:1308.3432; Jacob et al., 2018, arXiv:1712.05877): the product is that with the
rounded matrix, and the gradient of the rounded matrix goes to the matrix itself. The
loss then counts what rounding costs, and the trained weights lose little when they are
rounded for good.
"""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor
from torch.nn import functional as F

from lumina.model.layers import Linear
from lumina.model.moe import MoeFeedForward
from lumina.model.network import Network
from lumina.ops.low_bits.codec import Codec, found_codec


class _Rounded(torch.autograd.Function):
    """The nearest matrix that a codec holds; its gradient goes through as it is."""

    @staticmethod
    def forward(ctx: Any, weight: Tensor, codec: Codec) -> Tensor:
        rows = weight.detach().float()
        tensors = codec.encode_rows(rows)
        return codec.decode(tensors, tuple(weight.shape), weight.dtype)

    @staticmethod
    def backward(ctx: Any, gradient: Tensor) -> tuple[Tensor, None]:
        return gradient, None


def rounded(weight: Tensor, codec: Codec) -> Tensor:
    """The matrix [..., out, in] as a codec holds it, differentiable straight through.

    Args:
        weight: of any floating type; its row scales follow it from step to step.
        codec: one that holds every row on its own.
    """
    found: Tensor = _Rounded.apply(weight, codec)
    return found


def round_weights(network: Network, plan: Any) -> None:
    """Let the linear layers of the blocks, and experts, compute with rounded weights.

    Embeddings, heads, routers and norms stay as they are, as few bits leave them.

    Args:
        network: is changed in place.
        plan: its `rounded_to` names the codec.
    """
    codec = found_codec(plan.rounded_to)

    def product(x: Tensor, weight: Tensor) -> Tensor:
        return F.linear(x, rounded(weight, codec))

    for layer in network.backbone.blocks.modules():
        if isinstance(layer, Linear) and layer.stored is None:
            layer.product = product
        elif isinstance(layer, MoeFeedForward):
            layer.rounding = lambda weight: rounded(weight, codec)
