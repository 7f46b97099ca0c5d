"""Attention of one query a row to a cache of fixed shape, as Triton kernels.

A row's slots are divided among programs (Flash-Decoding, Dao et al., 2023), always at
the same places; those that nothing is seen of end at once. A second kernel adds up what
they found, in order. Queries and the new key are normalised and turned on the way.
"""

from __future__ import annotations

import math

import torch
import triton
import triton.language as tl
from torch import Tensor

from lumina.ops.one_token.reference import HeadNorms, Heads, Places

SPLIT = 64
"""Slots of a program."""


@triton.jit
def _turned(first, second, cos, sin, kind: tl.constexpr):
    """Halves of heads, turned against each other and rounded."""
    turned = (first * cos - second * sin).to(kind)
    return turned, (second * cos + first * sin).to(kind)


@triton.jit
def _split_kernel(
    qkv_ptr, q_scale_ptr, k_scale_ptr, cos_ptr, sin_ptr, slot_ptr, seen_ptr,
    columns_ptr, keys_ptr, values_ptr, part_ptr, stat_ptr,
    span, capacity, seen_row, factor, eps,
    QUERIES: tl.constexpr, KEYS: tl.constexpr, GROUP: tl.constexpr,
    FILLED: tl.constexpr, HALF: tl.constexpr, NORM: tl.constexpr,
    EXACT: tl.constexpr, POOL: tl.constexpr, SPLIT: tl.constexpr,
):  # fmt: skip
    row = tl.program_id(0).to(tl.int64)
    head, split = tl.program_id(1), tl.program_id(2)
    splits = tl.num_programs(2)
    WIDTH: tl.constexpr = 2 * HALF
    kind = qkv_ptr.dtype.element_ty
    slot = tl.load(slot_ptr + row)
    time = split * SPLIT + tl.arange(0, SPLIT)
    seen = tl.load(seen_ptr + row * seen_row + time, mask=time < span, other=0) != 0
    group, half = tl.arange(0, FILLED), tl.arange(0, HALF)
    own = (row * QUERIES + head * GROUP + group).to(tl.int64)
    out_there = group < GROUP
    stat = stat_ptr + (own * splits + split) * 2
    begin = split * SPLIT
    mine = (slot >= begin) & (slot < begin + SPLIT)
    if tl.max(seen.to(tl.int32), axis=0) == 0:
        tl.store(stat, tl.full([FILLED], float("-inf"), tl.float32), mask=out_there)
        tl.store(stat + 1, tl.zeros([FILLED], tl.float32), mask=out_there)
    else:
        base = qkv_ptr + row.to(tl.int64) * (QUERIES + 2 * KEYS) * WIDTH
        cos = tl.load(cos_ptr + row * HALF + half)
        sin = tl.load(sin_ptr + row * HALF + half)
        q_at = base + (head * GROUP + group)[:, None] * WIDTH + half[None, :]
        q_there = out_there[:, None]
        q1 = tl.load(q_at, mask=q_there, other=0.0).to(tl.float32)
        q2 = tl.load(q_at + HALF, mask=q_there, other=0.0).to(tl.float32)
        k_at = base + (QUERIES + head) * WIDTH + half
        k1 = tl.load(k_at).to(tl.float32)
        k2 = tl.load(k_at + HALF).to(tl.float32)
        if NORM:
            s1 = tl.load(q_scale_ptr + half).to(tl.float32)
            s2 = tl.load(q_scale_ptr + HALF + half).to(tl.float32)
            square = tl.sum(q1 * q1, axis=1) + tl.sum(q2 * q2, axis=1)
            length = tl.rsqrt(square / WIDTH + eps)[:, None]
            q1 = (q1 * length * s1[None, :]).to(kind).to(tl.float32)
            q2 = (q2 * length * s2[None, :]).to(kind).to(tl.float32)
            s1 = tl.load(k_scale_ptr + half).to(tl.float32)
            s2 = tl.load(k_scale_ptr + HALF + half).to(tl.float32)
            square_k = tl.sum(k1 * k1, axis=0) + tl.sum(k2 * k2, axis=0)
            length_k = tl.rsqrt(square_k / WIDTH + eps)
            k1 = (k1 * length_k * s1).to(kind).to(tl.float32)
            k2 = (k2 * length_k * s2).to(kind).to(tl.float32)
        q1, q2 = _turned(q1, q2, cos[None, :], sin[None, :], kind)
        k1, k2 = _turned(k1, k2, cos, sin, kind)
        v_new = tl.load(base + (QUERIES + KEYS + head) * WIDTH + tl.arange(0, WIDTH))
        if POOL:  # all rows lie in one row of columns
            held = head.to(tl.int64) * capacity * WIDTH
            columns_at = columns_ptr + row * span
            column = tl.load(columns_at + time, mask=time < span, other=0)
            own_column = tl.load(columns_at + slot)
        else:
            held = (row.to(tl.int64) * KEYS + head) * capacity * WIDTH
            column = time.to(tl.int64)
            own_column = slot
        # The new key is not read back: this program may be the one that writes it.
        old = seen & (time != slot)
        k_old = keys_ptr + held + column[None, :] * WIDTH + half[:, None]
        keys1 = tl.load(k_old, mask=old[None, :], other=0.0)
        keys2 = tl.load(k_old + HALF, mask=old[None, :], other=0.0)
        if EXACT:
            score = tl.dot(q1, keys1, input_precision="ieee")
            score += tl.dot(q2, keys2, input_precision="ieee")
        else:
            score = tl.dot(q1, keys1)
            score = tl.dot(q2, keys2, score)
        score = tl.where(old[None, :], score * factor, float("-inf"))
        fresh = tl.sum(q1.to(tl.float32) * k1.to(tl.float32)[None, :], axis=1)
        fresh += tl.sum(q2.to(tl.float32) * k2.to(tl.float32)[None, :], axis=1)
        fresh = tl.where(mine, fresh * factor, float("-inf"))
        top = tl.maximum(tl.max(score, axis=1), fresh)
        p = tl.exp(score - top[:, None])
        p_new = tl.exp(fresh - top)
        v_at = values_ptr + held + column[:, None] * WIDTH
        v_old = tl.load(
            v_at + tl.arange(0, WIDTH)[None, :], mask=old[:, None], other=0.0
        )
        if EXACT:
            total = tl.dot(p.to(kind), v_old, input_precision="ieee")
        else:
            total = tl.dot(p.to(kind), v_old)
        total += p_new.to(kind).to(tl.float32)[:, None] * v_new.to(tl.float32)[None, :]
        tl.store(stat, top, mask=out_there)
        tl.store(stat + 1, tl.sum(p, axis=1) + p_new, mask=out_there)
        part = part_ptr + (own * splits + split)[:, None] * WIDTH
        tl.store(part + tl.arange(0, WIDTH)[None, :], total, mask=q_there)
        if mine:
            at = held + own_column * WIDTH
            tl.store(keys_ptr + at + half, k1)
            tl.store(keys_ptr + at + HALF + half, k2)
            tl.store(values_ptr + at + tl.arange(0, WIDTH), v_new)


@triton.jit
def _sum_kernel(
    part_ptr,
    stat_ptr,
    y_ptr,
    splits: tl.constexpr,
    FILLED: tl.constexpr,
    TOGETHER: tl.constexpr,
    WIDTH: tl.constexpr,
):
    own = tl.program_id(0).to(tl.int64)
    channel = tl.arange(0, WIDTH)
    stat, part = stat_ptr + own * splits * 2, part_ptr + own * splits * WIDTH
    every = tl.arange(0, FILLED)
    tops = tl.load(stat + every * 2, mask=every < splits, other=float("-inf"))
    top = tl.max(tops, axis=0)
    whole = tl.full([], 0.0, tl.float32)
    total = tl.zeros([WIDTH], tl.float32)
    for begin in range(0, splits, TOGETHER):
        for step in tl.static_range(TOGETHER):  # loads of several are under way
            split = begin + step
            highest = tl.load(
                stat + split * 2, mask=split < splits, other=float("-inf")
            )
            there = highest > float("-inf")
            share = tl.where(there, tl.exp(highest - top), 0.0)
            sum_of = tl.load(stat + split * 2 + 1, mask=split < splits, other=0.0)
            whole += share * sum_of
            # What nothing was seen of was not written: it may hold anything.
            inside = (channel < WIDTH) & (split < splits)
            found = tl.load(part + split * WIDTH + channel, mask=inside, other=0.0)
            total += tl.where(there, share * found, 0.0)
    tl.store(y_ptr + own * WIDTH + channel, (total / whole).to(y_ptr.dtype.element_ty))


def attend(
    qkv_bn: Tensor,
    heads: Heads,
    norms: HeadNorms | None,
    places: Places,
    keys: Tensor,
    values: Tensor,
) -> Tensor:
    """As the reference."""
    assert keys.is_contiguous() and values.is_contiguous() and qkv_bn.is_contiguous()
    rows, span = places.seen_bt.shape
    capacity, width = keys.shape[2:]
    splits = triton.cdiv(span, SPLIT)
    group = heads.queries // heads.keys
    total = rows * heads.queries
    part = qkv_bn.new_empty(total, splits, width, dtype=torch.float32)
    stat = qkv_bn.new_empty(total, splits, 2, dtype=torch.float32)
    y = qkv_bn.new_empty(rows, heads.queries * width)
    cos, sin, slot_b, seen_bt, columns_bt = places
    assert columns_bt is None or columns_bt.is_contiguous()
    assert cos.is_contiguous() and sin.is_contiguous() and slot_b.is_contiguous()
    scales = (qkv_bn, qkv_bn) if norms is None else (norms.queries, norms.keys)
    _split_kernel[(rows, heads.keys, splits)](
        qkv_bn, *scales, cos, sin, slot_b, seen_bt.view(torch.uint8),
        slot_b if columns_bt is None else columns_bt, keys, values, part, stat,
        span, capacity, seen_bt.stride(0), 1 / math.sqrt(width),
        0.0 if norms is None else norms.eps,
        QUERIES=heads.queries, KEYS=heads.keys, GROUP=group,
        FILLED=max(16, triton.next_power_of_2(group)), HALF=width // 2,
        NORM=norms is not None, EXACT=qkv_bn.dtype == torch.float32,
        POOL=columns_bt is not None, SPLIT=SPLIT,
        num_warps=4, num_stages=1,
    )  # fmt: skip
    _sum_kernel[(total,)](
        part, stat, y, splits,
        FILLED=triton.next_power_of_2(splits), TOGETHER=min(8, splits), WIDTH=width,
        num_warps=1,
    )  # fmt: skip
    return y


def fits(heads: Heads) -> bool:
    """Whether the kernels take such heads: widths that fill tensor cores."""
    powers = (32, 64, 128, 256)
    return heads.width in powers and heads.queries % heads.keys == 0
