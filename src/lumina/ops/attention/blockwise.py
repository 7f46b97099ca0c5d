"""Attention block by block, in memory that grows with the length, not its square.

The scores of a block of queries and a block of keys are made, used and let go; a
running maximum and sum make one softmax of the blocks (Milakov and Gimelshein, 2018,
arXiv:1805.02867; Rabe and Staats, 2021, arXiv:2112.05682). It is the algorithm of ring
attention (Liu et al., 2023, arXiv:2310.01889) with one participant. Backward makes the
scores again from what forward kept: the result and one number for each query and head.

Where a kernel gives the logarithm of that sum with its result (`block_kernels`), it
computes the blocks, and scores exist nowhere (`merged`). Dilation and very many short
documents are left to the arithmetic here, which is also what kernels are tested by.

Any pattern that `masks.in_reach` knows needs no mask of all pairs. Pairs of blocks in
which nothing is visible are left out. Keys and values may lie in host memory while the
queries are on a GPU: each block is brought over when it is needed, and its gradient
goes back there.
"""

from __future__ import annotations

import math
from collections.abc import Iterator
from typing import NamedTuple

import torch
from torch import Tensor

from lumina.ops.attention import merged
from lumina.ops.attention.beyond import NOTHING, Beyond
from lumina.ops.attention.block_kernels.table import (
    AUTO,
    BLOCK_KERNELS,
    BlockKernel,
    chosen,
)
from lumina.ops.attention.masks import in_reach
from lumina.ops.attention.pieces import Group, documents_of, groups_of

BLOCK = 4096
"""Keys of a block."""

SCORES_BYTES = 2**26
"""What the float32 scores of one pair of blocks take at most; queries are divided."""

FEW_QUERIES = 64
"""Where documents or a window are so short that a kernel would have fewer queries than
this in a call on average, there is none: masks take less time than the calls."""


class Sight(NamedTuple):
    """Which keys the queries see, beside causal order and documents.

    Attributes:
        window: tokens that a query sees, itself among them; 0: all.
        beyond: what stays visible beyond the window.
    """

    window: int
    beyond: Beyond


class Pair(NamedTuple):
    """A block of queries and a block of keys.

    Attributes:
        queries: their places among the queries.
        keys: their places among the keys.
        masked: some of the pairs of a query and a key are hidden.
    """

    queries: slice
    keys: slice
    masked: bool


def blockwise(
    q_bshd: Tensor,
    k_btkd: Tensor,
    v_btkd: Tensor,
    starts_bs: Tensor | None,
    window: int = 0,
    beyond: Beyond = NOTHING,
    block: int = BLOCK,
    kernel: str = AUTO,
) -> Tensor:
    """Causal attention within documents; the queries are the last S of the T keys.

    Args:
        q_bshd: [B, S, H, head_dim].
        k_btkd: [B, T, K, head_dim], H a multiple of K; `v_btkd` alike.
        starts_bs: [B, S] int64, the column among the keys in which each query's
            document begins; None: every row is one document.
        window: tokens a query sees, itself among them; 0: all.
        beyond: what stays visible beyond the window.
        block: keys of a block, without a kernel.
        kernel: an entry of `BLOCK_KERNELS` for patterns without dilation and blocks of
            at least `FEW_QUERIES`; `PLAIN`: none; `AUTO`: the fastest for the tensors.

    Returns:
        [B, S, H, head_dim] in the type of the queries; scores and sums are float32.
    """
    out: Tensor
    out, _ = blockwise_attention(
        q_bshd,
        k_btkd,
        v_btkd,
        starts_bs,
        window,
        beyond.sinks,
        beyond.dilation,
        block,
        kernel,
    )
    return out


@torch.library.custom_op("lumina::blockwise_attention", mutates_args=())
def blockwise_attention(
    q: Tensor,
    k: Tensor,
    v: Tensor,
    starts: Tensor | None,
    window: int,
    sinks: int,
    dilation: int,
    block: int,
    kernel: str,
) -> tuple[Tensor, Tensor]:
    """`blockwise`, and the logarithm of each softmax's sum, [B, H, S] float32."""
    sight = Sight(window, Beyond(sinks, dilation))
    fast = _by_kernel(kernel, q, k, v, starts, sight)
    if fast is not None:
        return merged.forward(fast.kernel, q, k, v, fast.groups)
    rows, queries, heads, _width = q.shape
    groups, shift = k.shape[2], k.shape[1] - queries
    out = torch.empty_like(q)
    sums = q.new_empty((rows, heads, queries), dtype=torch.float32)
    for place, pairs in _by_queries(q, k, starts, sight, block):
        q_blk = _queries(q, place, groups)
        top = q_blk.new_full(q_blk.shape[:-1], -math.inf)
        total, mixed = torch.zeros_like(top), torch.zeros_like(q_blk)
        for pair in pairs:
            scores = _scores(q_blk, k, pair, starts, sight, shift)
            higher = torch.maximum(top, scores.amax(-1))
            # Before the first visible key the maximum is -inf, and its difference NaN.
            level = higher.masked_fill(higher == -math.inf, 0.0)
            weights = (scores - level[..., None]).exp_()
            faded = (top - level).exp_()
            total = total * faded + weights.sum(-1)
            mixed = mixed * faded[..., None]
            mixed += weights @ _keys(v, pair.keys, q.device)
            top = higher
        out[:, place] = _whole(mixed / total[..., None], heads).to(q.dtype)
        sums[:, :, place] = (top + total.log()).view(rows, heads, -1)
    return out, sums


@blockwise_attention.register_fake
def _(
    q: Tensor,
    k: Tensor,
    v: Tensor,
    starts: Tensor | None,
    window: int,
    sinks: int,
    dilation: int,
    block: int,
    kernel: str,
) -> tuple[Tensor, Tensor]:
    rows, queries, heads, _ = q.shape
    return torch.empty_like(q), q.new_empty((rows, heads, queries), dtype=torch.float32)


@torch.library.custom_op("lumina::blockwise_attention_backward", mutates_args=())
def blockwise_attention_backward(
    grad: Tensor,
    q: Tensor,
    k: Tensor,
    v: Tensor,
    starts: Tensor | None,
    out: Tensor,
    sums: Tensor,
    window: int,
    sinks: int,
    dilation: int,
    block: int,
    kernel: str,
) -> tuple[Tensor, Tensor, Tensor]:
    """Gradients of queries, keys and values; those of keys add up in float32."""
    grad_k = torch.zeros(k.shape, dtype=torch.float32, device=k.device)
    grad_v = torch.zeros(v.shape, dtype=torch.float32, device=v.device)
    how = window, sinks, dilation, block, kernel
    grad_q = add_gradients(grad, q, k, v, starts, out, sums, *how, grad_k, grad_v)
    return grad_q, grad_k.to(k.dtype), grad_v.to(v.dtype)


@blockwise_attention_backward.register_fake
def _(
    grad: Tensor,
    q: Tensor,
    k: Tensor,
    v: Tensor,
    starts: Tensor | None,
    out: Tensor,
    sums: Tensor,
    window: int,
    sinks: int,
    dilation: int,
    block: int,
    kernel: str,
) -> tuple[Tensor, Tensor, Tensor]:
    return torch.empty_like(q), k.new_empty(k.shape), v.new_empty(v.shape)


def add_gradients(
    grad: Tensor,
    q: Tensor,
    k: Tensor,
    v: Tensor,
    starts: Tensor | None,
    out: Tensor,
    sums: Tensor,
    window: int,
    sinks: int,
    dilation: int,
    block: int,
    kernel: str,
    grad_k: Tensor,
    grad_v: Tensor,
) -> Tensor:
    """The gradient of the queries; those of keys and values are added to what is there.

    Args:
        grad: of the result.
        q: as in `blockwise_attention`; all up to `kernel` are as there.
        out: what it gave; `sums` too.
        grad_k: [B, T, K, head_dim] float32, where the keys are; `grad_v` alike.
    """
    sight = Sight(window, Beyond(sinks, dilation))
    fast = _by_kernel(kernel, q, k, v, starts, sight)
    if fast is not None:
        into = grad_k, grad_v
        return merged.backward(fast.kernel, grad, q, k, v, out, sums, fast.groups, into)
    _rows, queries, heads, width = q.shape
    groups, shift, scale = k.shape[2], k.shape[1] - queries, 1 / math.sqrt(width)
    grad_q = torch.empty_like(q)
    for place, pairs in _by_queries(q, k, starts, sight, block):
        q_blk = _queries(q, place, groups)
        grad_blk = _queries(grad, place, groups)
        mean = (grad_blk * _queries(out, place, groups)).sum(-1, keepdim=True)
        sum_blk = sums[:, :, place].reshape(*q_blk.shape[:3], 1)
        found = torch.zeros_like(q_blk)
        for pair in pairs:
            scores = _scores(q_blk, k, pair, starts, sight, shift)
            weights = scores.sub_(sum_blk).exp_()
            value_grad = weights.transpose(-1, -2) @ grad_blk
            towards = grad_blk @ _keys(v, pair.keys, q.device).transpose(-1, -2)
            towards = towards.sub_(mean).mul_(weights)
            found += towards @ _keys(k, pair.keys, q.device)
            key_grad = (towards.transpose(-1, -2) @ q_blk).mul_(scale)
            everywhere = slice(None)
            merged.add_to(grad_k, everywhere, pair.keys, key_grad.transpose(1, 2))
            merged.add_to(grad_v, everywhere, pair.keys, value_grad.transpose(1, 2))
        grad_q[:, place] = _whole(found.mul_(scale), heads).to(q.dtype)
    return grad_q


def _keep(ctx, inputs, output) -> None:  # type: ignore[no-untyped-def]
    q, k, v, starts, *ctx.how = inputs
    ctx.save_for_backward(q, k, v, starts, *output)


def _back(ctx, grad, _):  # type: ignore[no-untyped-def]
    found = blockwise_attention_backward(grad, *ctx.saved_tensors, *ctx.how)
    return *found, None, None, None, None, None, None


blockwise_attention.register_autograd(_back, setup_context=_keep)


class _Fast(NamedTuple):
    """A kernel, and what it computes."""

    kernel: BlockKernel
    groups: list[Group]


def _by_kernel(
    name: str, q: Tensor, k: Tensor, v: Tensor, starts: Tensor | None, sight: Sight
) -> _Fast | None:
    """What a kernel computes of all that is seen: everything, or None: nothing."""
    if name == AUTO:
        name = chosen(q, v.shape[-1], starts is not None)
    kernel = BLOCK_KERNELS.found(name)
    if kernel is None or (sight.window and sight.beyond.dilation):
        return None
    rows, queries = q.shape[:2]
    most = (queries if starts is None else rows * queries) // FEW_QUERIES
    documents = documents_of(starts, queries)
    if len(documents) > most:
        return None
    sinks = sight.beyond.sinks if sight.window else 0
    shift = k.shape[1] - queries
    groups = [*groups_of(documents, rows, shift, sight.window, sinks)]
    return _Fast(kernel, groups) if len(groups) <= most else None


def _by_queries(
    q: Tensor, k: Tensor, starts: Tensor | None, sight: Sight, block: int
) -> Iterator[tuple[slice, list[Pair]]]:
    """Blocks of queries, each with the blocks of keys in which it sees something."""
    rows, queries, heads, _ = q.shape
    keys = k.shape[1]
    block = min(block, keys)
    size = max(1, min(block, SCORES_BYTES // (4 * rows * heads * block)))
    begins = range(0, queries, size)
    first, last = _extremes(starts, size, len(begins))
    for number, begin in enumerate(begins):
        place = slice(begin, min(begin + size, queries))
        pairs = []
        for key in range(0, keys, block):
            there = slice(key, min(key + block, keys))
            span = range(keys - queries + place.start, keys - queries + place.stop)
            masked = _hides(span, there, first[number], last[number], sight)
            if masked is not None:
                pairs.append(Pair(place, there, masked))
        yield place, pairs


def _extremes(
    starts: Tensor | None, size: int, blocks: int
) -> tuple[list[int], list[int]]:
    """The first and the last column in which a document of each block begins."""
    if starts is None:
        return [0] * blocks, [0] * blocks
    parts = starts.split(size, dim=1)
    ends = torch.stack([torch.stack(part.aminmax()) for part in parts], dim=1)
    first, last = ends.tolist()
    return first, last


def _hides(
    queries: range, keys: slice, first: int, last: int, sight: Sight
) -> bool | None:
    """Whether a pair of blocks hides something; None where it hides everything.

    Args:
        queries: columns of the queries.
        keys: columns of the keys.
        first: the first column in which a document of these queries begins.
        last: the last such column.
        sight: what the queries see.
    """
    oldest, newest = keys.start, keys.stop - 1
    if oldest > queries[-1] or newest < first:
        return None
    if sight.window and newest <= queries[0] - sight.window:
        sinks = sight.beyond.sinks and oldest < last + sight.beyond.sinks
        if not sinks and not sight.beyond.dilation:
            return None
    near = not sight.window or queries[-1] - oldest < sight.window
    return not (newest <= queries[0] and last <= oldest and near)


def _scores(
    q_blk: Tensor,
    k: Tensor,
    pair: Pair,
    starts: Tensor | None,
    sight: Sight,
    shift: int,
) -> Tensor:
    """[B, K, H / K * s, t] float32, -inf where a query does not see a key."""
    keys = _keys(k, pair.keys, q_blk.device)
    scores = (q_blk @ keys.transpose(-1, -2)).mul_(1 / math.sqrt(q_blk.shape[-1]))
    if not pair.masked:
        return scores
    device, place = scores.device, pair.queries
    query = torch.arange(place.start, place.stop, device=device)[:, None] + shift
    key = torch.arange(pair.keys.start, pair.keys.stop, device=device)
    if starts is None:
        seen = in_reach(query, key, 0, *sight)[None]
    else:
        begins = starts[:, place, None]
        seen = in_reach(query, key, begins, *sight) & (key >= begins)
    seen = seen[:, None, None]  # [B or 1, 1, 1, s, t]
    by_head: Tensor = scores.unflatten(2, (-1, query.shape[0]))
    by_head.masked_fill_(~seen, -math.inf)
    return scores


def _queries(q: Tensor, place: slice, groups: int) -> Tensor:
    """[B, K, H / K * s, head_dim] float32, of the queries at some places."""
    part = q[:, place].float().transpose(1, 2).unflatten(1, (groups, -1))
    by_group: Tensor = part.flatten(2, 3)
    return by_group


def _keys(k: Tensor, place: slice, device: torch.device) -> Tensor:
    """[B, K, t, head_dim] float32 on `device`, of the keys at some places."""
    part: Tensor = k[:, place].to(device, non_blocking=True).float().transpose(1, 2)
    return part


def _whole(blk: Tensor, heads: int) -> Tensor:
    """[B, K, H / K * s, head_dim] back to [B, s, H, head_dim]."""
    whole: Tensor = blk.reshape(len(blk), heads, -1, blk.shape[-1]).transpose(1, 2)
    return whole
