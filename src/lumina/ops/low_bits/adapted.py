"""The product with a frozen matrix and with what narrow pairs of matrices add to it.

`y = x W^T + scale * (x A^T) B^T`, where each pair stands on a range of the outputs
(LoRA; Hu et al., 2021, arXiv:2106.09685). Written as separate operations, every pair
writes its addition, and the result and the gradient of the input, which are the largest
tensors here, are copied for each of them. As one operator, all A multiply the input
together, and each pair adds to the result, and to the gradient, in place.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import torch
from torch import Tensor

from lumina.ops.low_bits.codec import Packed, found_codec
from lumina.ops.low_bits.operator import listed_pieces
from lumina.ops.low_bits.pair import Pair
from lumina.ops.low_bits.wide import wide


def adapted_product(
    x: Tensor, weight: Tensor | Sequence[Packed], pairs: Sequence[Pair]
) -> Tensor:
    """The product, with gradients of `x` and of the pairs, not of the matrix.

    Args:
        x: [..., in].
        weight: [out, in] frozen, or the pieces that hold it, as of
            `lumina.ops.low_bits.product.product`.
        pairs: what is added; of any floating type.

    Returns:
        [..., out] in the type of `x`.
    """
    if isinstance(weight, Tensor):
        codec, held, outputs = "", [weight.detach().to(x.dtype)], [weight.shape[0]]
    else:
        codec = weight[0].codec
        names = list(found_codec(codec).parts(weight[0].shape))
        held = [piece.tensors[name] for piece in weight for name in names]
        outputs = [piece.shape[-2] for piece in weight]
    y: Tensor
    y, _ = _forward(
        x,
        held,
        codec,
        outputs,
        [pair.a.to(x.dtype) for pair in pairs],
        [pair.b.to(x.dtype) for pair in pairs],
        [pair.scale for pair in pairs],
        [pair.begin for pair in pairs],
    )
    return y


@torch.library.custom_op("lumina::adapted_product", mutates_args=())
def _forward(
    x: Tensor,
    held: list[Tensor],
    codec: str,
    outputs: list[int],
    a: list[Tensor],
    b: list[Tensor],
    scales: list[float],
    begins: list[int],
) -> tuple[Tensor, Tensor]:
    """The result, and the products with all A, [tokens, all ranks]."""
    rows = x.reshape(-1, x.shape[-1])
    y = _base(rows, held, codec, outputs)
    inner = rows @ torch.cat(a).t()
    for b_or, scale, begin, part in _places(b, scales, begins, inner):
        y[:, begin : begin + b_or.shape[0]].addmm_(part, b_or.t(), alpha=scale)
    return y.view(*x.shape[:-1], y.shape[-1]), inner


@_forward.register_fake
def _(
    x: Tensor,
    held: list[Tensor],
    codec: str,
    outputs: list[int],
    a: list[Tensor],
    b: list[Tensor],
    scales: list[float],
    begins: list[int],
) -> tuple[Tensor, Tensor]:
    tokens, ranks = x.shape[:-1].numel(), sum(one.shape[0] for one in a)
    return (
        x.new_empty((*x.shape[:-1], sum(outputs))),
        x.new_empty((tokens, ranks)),
    )


@torch.library.custom_op("lumina::adapted_product_backward", mutates_args=())
def _gradients(
    grad: Tensor,
    x: Tensor,
    inner: Tensor,
    held: list[Tensor],
    codec: str,
    outputs: list[int],
    a: list[Tensor],
    b: list[Tensor],
    scales: list[float],
    begins: list[int],
    of_x: bool,
) -> list[Tensor]:
    """The gradients of x (empty where not wanted), of all A together, and of each B."""
    grad, rows = grad.reshape(-1, grad.shape[-1]), x.reshape(-1, x.shape[-1])
    grad_inner, grads_b = torch.empty_like(inner), []
    for b_or, scale, begin, (part, into) in _places(
        b, scales, begins, inner, grad_inner
    ):
        piece = grad[:, begin : begin + b_or.shape[0]]
        torch.addmm(into, piece, b_or, beta=0, alpha=scale, out=into)
        grads_b.append(torch.mm(piece.t(), part).mul_(scale))
    grad_a = grad_inner.t() @ rows
    if not of_x:
        return [x.new_empty(0), grad_a, *grads_b]
    grad_x = grad @ _matrix(held, codec, outputs, x)
    grad_x.addmm_(grad_inner, torch.cat(a))
    return [grad_x.view(x.shape), grad_a, *grads_b]


@_gradients.register_fake
def _(
    grad: Tensor,
    x: Tensor,
    inner: Tensor,
    held: list[Tensor],
    codec: str,
    outputs: list[int],
    a: list[Tensor],
    b: list[Tensor],
    scales: list[float],
    begins: list[int],
    of_x: bool,
) -> list[Tensor]:
    grad_x = torch.empty_like(x) if of_x else x.new_empty(0)
    return [
        grad_x,
        x.new_empty((inner.shape[1], x.shape[-1])),
        *map(torch.empty_like, b),
    ]


def _base(rows: Tensor, held: list[Tensor], codec: str, outputs: list[int]) -> Tensor:
    """The product of rows [N, in] with the frozen matrix, [N, out]."""
    found = found_codec(codec) if codec else None
    if found is None or not found.rounds_inputs:
        return rows @ _matrix(held, codec, outputs, rows).t()
    pieces = listed_pieces(held, codec, [outputs[0], rows.shape[-1]], outputs)
    return torch.cat([found.linear(rows, piece) for piece in pieces], dim=-1)


def _matrix(held: list[Tensor], codec: str, outputs: list[int], x: Tensor) -> Tensor:
    """The frozen matrix [out, in] in the type of x."""
    if not codec:
        return held[0]
    shape = [outputs[0], x.shape[-1]]
    return wide(listed_pieces(held, codec, shape, outputs), x.dtype)


def _places(
    b: list[Tensor], scales: list[float], begins: list[int], *inner: Tensor
) -> list[tuple[Any, ...]]:
    """(B, scale, first output, its columns of what all A made) of each pair."""
    ranks = [one.shape[1] for one in b]
    columns = [one.split(ranks, dim=1) for one in inner]
    parts: Any = columns[0] if len(columns) == 1 else zip(*columns, strict=True)
    return list(zip(b, scales, begins, parts, strict=True))


def _keep(ctx: Any, inputs: tuple[Any, ...], output: tuple[Tensor, Tensor]) -> None:
    x, held, codec, outputs, a, b, scales, begins = inputs
    ctx.save_for_backward(x, output[1], *held, *a, *b)
    ctx.settings = codec, outputs, scales, begins
    ctx.mark_non_differentiable(output[1])


def _backward(ctx: Any, grad: Tensor, _: Tensor) -> tuple[Any, ...]:
    codec, outputs, scales, begins = ctx.settings
    x, inner, *tensors = ctx.saved_tensors
    pairs = len(scales)
    held = tensors[: -2 * pairs]
    a, b = tensors[-2 * pairs : -pairs], tensors[-pairs:]
    grad_x, grad_a, *grads_b = _gradients(
        grad, x, inner, held, codec, outputs, a, b, scales, begins,
        ctx.needs_input_grad[0],
    )  # fmt: skip
    grads_a = list(grad_a.split([one.shape[0] for one in a]))
    return (
        grad_x if ctx.needs_input_grad[0] else None,
        [None] * len(held), None, None, grads_a, grads_b, None, None,
    )  # fmt: skip


_forward.register_autograd(_backward, setup_context=_keep)
