"""The largest attention score of every head, as attention kernels compute scores."""

from __future__ import annotations

import math

import torch
import triton
import triton.language as tl
from torch import Tensor

from lumina.ops.largest_scores import tiles

TILES = ((64, 128, 128), (128, 128, 64), (256, 64, 32))
"""Widest head, and the queries and keys of a tile, which has to fit on the chip."""


@triton.jit
def _largest_kernel(
    q_ptr, k_ptr, starts_ptr, largest_ptr,
    q_batch, q_row, q_head, k_batch, k_row, k_head,
    queries, keys, heads, group, window, scale,
    CAUSAL: tl.constexpr, WINDOWED: tl.constexpr, PACKED: tl.constexpr,
    WIDTH: tl.constexpr, FILLED: tl.constexpr,
    QUERIES: tl.constexpr, KEYS: tl.constexpr,
):  # fmt: skip
    first = tl.program_id(0) * QUERIES
    batch = (tl.program_id(1) // heads).to(tl.int64)
    head = tl.program_id(1) % heads
    row = first + tl.arange(0, QUERIES)
    channel = tl.arange(0, FILLED)
    q_ptr += batch * q_batch + head * q_head
    k_ptr += batch * k_batch + (head // group) * k_head
    q_there = (row < queries)[:, None] & (channel < WIDTH)[None, :]
    q_at = row.to(tl.int64)[:, None] * q_row + channel[None, :]
    q = tl.load(q_ptr + q_at, mask=q_there, other=0.0)
    own = row + keys - queries  # the last key that a query sees
    begin, end = 0, keys
    start = tl.zeros_like(row)
    if CAUSAL:
        end = tl.minimum(first + QUERIES + keys - queries, keys)
        if WINDOWED:
            begin = tl.maximum(first + keys - queries - window + 1, 0)
    if PACKED:
        starts_ptr += batch * queries
        start = tl.load(starts_ptr + row, mask=row < queries, other=0)
        # Starts do not fall along a row: the first query's is the smallest.
        begin = tl.maximum(begin, tl.load(starts_ptr + first))
    top = tl.full([QUERIES], float("-inf"), tl.float32)
    for at in range(begin, end, KEYS):
        key = at + tl.arange(0, KEYS)
        k_there = (channel < WIDTH)[:, None] & (key < keys)[None, :]
        k_at = key.to(tl.int64)[None, :] * k_row + channel[:, None]
        scores = tl.dot(q, tl.load(k_ptr + k_at, mask=k_there, other=0.0))
        seen = (row < queries)[:, None] & (key < keys)[None, :]
        if CAUSAL:
            seen = seen & (key[None, :] <= own[:, None])
            if WINDOWED:
                seen = seen & (key[None, :] > own[:, None] - window)
        if PACKED:
            seen = seen & (key[None, :] >= start[:, None])
        top = tl.maximum(top, tl.max(tl.where(seen, scores, float("-inf")), axis=1))
    tl.atomic_max(largest_ptr + head, tl.max(top, axis=0) * scale)


def note_largest_(
    q_bshd: Tensor,
    k_bskd: Tensor,
    starts: Tensor | None,
    window: int,
    causal: bool,
    largest: Tensor,
) -> None:
    """Raise `largest` [H] to the largest scores, without a mask in memory.

    Args:
        q_bshd: [B, S, H, head_dim], 16 bits, on a GPU.
        k_bskd: [B, T, K, head_dim].
        starts: [B, S] int32, the first key that a query may see; None: 0.
        window: keys that a query sees, its own among them; 0: all.
        causal: a query sees no key after its own; queries are the last of the keys.
        largest: [H] float32, changed in place.
    """
    batch, queries, heads, width = q_bshd.shape
    keys, groups = k_bskd.shape[1:3]
    assert q_bshd.stride(3) == k_bskd.stride(3) == 1
    filled = max(16, triton.next_power_of_2(width))
    usual = next((tile[1:] for tile in TILES if filled <= tile[0]), TILES[-1][1:])
    named = tiles.CHOSEN
    tile = named.get("queries", usual[0]), named.get("keys", usual[1])
    grid = (triton.cdiv(queries, tile[0]), batch * heads)
    _largest_kernel[grid](
        q_bshd, k_bskd, largest if starts is None else starts, largest,
        *q_bshd.stride()[:3], *k_bskd.stride()[:3],
        queries, keys, heads, heads // groups, window, 1 / math.sqrt(width),
        CAUSAL=causal, WINDOWED=window > 0, PACKED=starts is not None, WIDTH=width,
        FILLED=filled, QUERIES=tile[0], KEYS=tile[1],
        num_warps=named.get("warps", 8), num_stages=named.get("stages", 2),
    )  # fmt: skip


def starts_of(cu_seqlens: Tensor, batch: int, queries: int) -> Tensor:
    """[B, S] int32: where the document of each place begins in its row.

    Args:
        cu_seqlens: [N + 1] int32, where documents begin in the flattened rows.
        batch: rows.
        queries: places of a row.
    """
    places = torch.arange(batch * queries, device=cu_seqlens.device)
    document = torch.searchsorted(cu_seqlens, places, right=True) - 1
    starts = cu_seqlens[document].view(batch, queries)
    rows = torch.arange(batch, device=starts.device, dtype=torch.int32)
    return (starts - (rows * queries)[:, None]).clamp(min=0).int().contiguous()
