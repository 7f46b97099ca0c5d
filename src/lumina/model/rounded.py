"""Weights that are rounded to few bits in each forward pass while they train.

Quantisation-aware training with a straight-through estimator (Bengio et al., 2013,
arXiv:1308.3432; Jacob et al., 2018, arXiv:1712.05877): the product is that with the
rounded matrix, and the gradient of the rounded matrix goes to the matrix itself. The
loss then counts what rounding costs, and the trained weights lose little when they are
rounded for good. Inputs that a codec rounds as it multiplies are rounded while
training, too.
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


class _Product(torch.autograd.Function):
    """The product of what a codec makes of both sides; gradients go straight through.

    Only the two sides themselves are kept: the backward pass rounds them again, so that
    a step takes no more memory than without rounding but for one matrix at a time.
    """

    @staticmethod
    def forward(ctx: Any, x: Tensor, weight: Tensor, codec: Codec) -> Tensor:
        ctx.save_for_backward(x, weight)
        ctx.codec = codec
        return F.linear(codec.rounded_inputs(x), _nearest(weight, codec))

    @staticmethod
    def backward(ctx: Any, gradient: Tensor) -> tuple[Tensor | None, ...]:
        x, weight = ctx.saved_tensors
        of_x = of_weight = None
        if ctx.needs_input_grad[0]:
            of_x = gradient @ _nearest(weight, ctx.codec)
        if ctx.needs_input_grad[1]:
            rows = ctx.codec.rounded_inputs(x).flatten(0, -2)
            of_weight = gradient.flatten(0, -2).t() @ rows
        return of_x, of_weight, None


class _Rounded(torch.autograd.Function):
    """The nearest matrix that a codec holds; its gradient goes through as it is."""

    @staticmethod
    def forward(ctx: Any, weight: Tensor, codec: Codec) -> Tensor:
        return _nearest(weight, codec)

    @staticmethod
    def backward(ctx: Any, gradient: Tensor) -> tuple[Tensor, None]:
        return gradient, None


def _nearest(weight: Tensor, codec: Codec) -> Tensor:
    """The nearest matrix that a codec holds, in the type of `weight`."""
    tensors = codec.encode_rows(weight.detach().float())
    return codec.decode(tensors, tuple(weight.shape), weight.dtype)


def rounded_product(x: Tensor, weight: Tensor, codec: Codec) -> Tensor:
    """[..., in] to [..., out], both sides rounded as a codec multiplies them.

    Args:
        x: inputs, in the type of the weight.
        weight: [out, in]; a codec holds every row of it on its own.
        codec: `Codec.rounded_inputs` says what it makes of inputs.
    """
    found: Tensor = _Product.apply(x, weight, codec)
    return found


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

    Embeddings, heads, routers and norms stay as they are, as few bits leave them. A
    codec that rounds what it multiplies rounds the inputs of linear layers too, by
    scales that are found in each product anew (dynamic); experts' inputs stay.

    Args:
        network: is changed in place.
        plan: its `rounded_to` names the codec.
    """
    codec = found_codec(plan.rounded_to)

    def product(x: Tensor, weight: Tensor) -> Tensor:
        return rounded_product(x, weight, codec)

    for layer in network.backbone.blocks.modules():
        if isinstance(layer, Linear) and layer.stored is None:
            layer.product = product
        elif isinstance(layer, MoeFeedForward):
            layer.rounding = lambda weight: rounded(weight, codec)
