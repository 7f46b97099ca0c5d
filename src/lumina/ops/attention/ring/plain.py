"""A kernel of attention in plain arithmetic, for tensors that no other kernel takes.

Blocks of 4,096 keys (`BLOCK`) and as many queries as `SCORES_BYTES` allows go by one
after the other; a running maximum and sum make one softmax of them.
"""

from __future__ import annotations

import math
from collections.abc import Iterator

import torch
from torch import Tensor

from lumina.ops.attention.block_kernels.table import PLAIN, BlockKernel
from lumina.ops.attention.blockwise import BLOCK, SCORES_BYTES


def forward(
    q_bhsd: Tensor, k_bktd: Tensor, v_bktd: Tensor, causal: bool, scale: float
) -> tuple[Tensor, Tensor]:
    """As `lumina.ops.attention.block_kernels.table.Forward`."""
    q, k, v = _by_group(q_bhsd, k_bktd), _wide(k_bktd), _wide(v_bktd)
    out, sums = torch.empty_like(q), q.new_empty(q.shape[:-1])
    for queries, blocks in _blocks(q, k.shape[2], causal):
        top = q.new_full((*q.shape[:3], queries.stop - queries.start), -math.inf)
        total, mixed = torch.zeros_like(top), torch.zeros_like(q[..., queries, :])
        for keys in blocks:
            scores = _scores(q, k, queries, keys, causal, scale)
            higher = torch.maximum(top, scores.amax(-1))
            # Before the first visible key the maximum is -inf, and its difference NaN.
            level = higher.masked_fill(higher == -math.inf, 0.0)
            weights = (scores - level[..., None]).exp_()
            faded = (top - level).exp_()
            total = total * faded + weights.sum(-1)
            mixed = mixed * faded[..., None] + weights @ v[:, :, None, keys]
            top = higher
        out[..., queries, :] = mixed / total[..., None]
        sums[..., queries] = top + total.log()
    return out.flatten(1, 2).to(q_bhsd.dtype), sums.flatten(1, 2)


def backward(
    grad_bhsd: Tensor,
    q_bhsd: Tensor,
    k_bktd: Tensor,
    v_bktd: Tensor,
    out_bhsd: Tensor,
    sums_bhs: Tensor,
    causal: bool,
    scale: float,
) -> tuple[Tensor, Tensor, Tensor]:
    """As `lumina.ops.attention.block_kernels.table.Backward`; in float32 or wider."""
    q, k, v = _by_group(q_bhsd, k_bktd), _wide(k_bktd), _wide(v_bktd)
    grad, out = (_by_group(x, k_bktd) for x in (grad_bhsd, out_bhsd))
    sums = sums_bhs.unflatten(1, (k.shape[1], -1))[..., None]
    of_q, of_k, of_v = torch.zeros_like(q), torch.zeros_like(k), torch.zeros_like(v)
    mean = (grad * out).sum(-1, keepdim=True)
    for queries, blocks in _blocks(q, k.shape[2], causal):
        given = grad[..., queries, :]
        for keys in blocks:
            scores = _scores(q, k, queries, keys, causal, scale)
            weights = (scores - sums[..., queries, :]).exp_()
            of_v[:, :, keys] += (weights.transpose(-1, -2) @ given).sum(2)
            towards = given @ v[:, :, None, keys].transpose(-1, -2)
            towards = (towards - mean[..., queries, :]) * weights * scale
            of_q[..., queries, :] += towards @ k[:, :, None, keys]
            of_k[:, :, keys] += (towards.transpose(-1, -2) @ q[..., queries, :]).sum(2)
    return of_q.flatten(1, 2), of_k, of_v


KERNEL = BlockKernel(PLAIN, 99, lambda q, packed: True, forward, backward)
"""In the table of kernels it would be found before blockwise attention's own."""


def _blocks(
    q: Tensor, count: int, causal: bool
) -> Iterator[tuple[slice, Iterator[slice]]]:
    """Blocks of queries, each with the blocks of keys of which it sees any."""
    many, length = math.prod(q.shape[:3]), q.shape[3]
    size = max(1, SCORES_BYTES // (q.element_size() * many * min(BLOCK, count)))
    for begin in range(0, length, size):
        end = min(begin + size, length)
        last = end if causal else count
        keys = (slice(at, min(at + BLOCK, last)) for at in range(0, last, BLOCK))
        yield slice(begin, end), keys


def _scores(
    q: Tensor, k: Tensor, queries: slice, keys: slice, causal: bool, scale: float
) -> Tensor:
    """[B, K, H / K, s, t], -inf where a query does not see a key."""
    scores: Tensor = (
        q[..., queries, :] @ k[:, :, None, keys].transpose(-1, -2)
    ) * scale
    if causal:
        query = torch.arange(queries.start, queries.stop, device=q.device)[:, None]
        key = torch.arange(keys.start, keys.stop, device=q.device)
        scores.masked_fill_(key > query, -math.inf)
    return scores


def _wide(x: Tensor) -> Tensor:
    return x.to(torch.promote_types(x.dtype, torch.float32))


def _by_group(x_bhsd: Tensor, k_bktd: Tensor) -> Tensor:
    """[B, K, H / K, S, head_dim]: the heads of queries by their head of keys."""
    by_group: Tensor = _wide(x_bhsd).unflatten(1, (k_bktd.shape[1], -1))
    return by_group
