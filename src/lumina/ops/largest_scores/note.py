"""The largest attention score of every head, without keeping the scores.

Attention kernels do not return it, so the scores are made once more, a few queries at a
time, and only their maximum is kept: on a GPU by a kernel that keeps them on the chip.
"""

from __future__ import annotations

import math

import torch
from torch import Tensor

from lumina.ops.attention.dispatch import Pattern
from lumina.ops.triton_there import has_triton

SCORES_BYTES = 2**25
"""What the scores of some queries may take at a time."""


def note_largest(
    q_bshd: Tensor, k_bskd: Tensor, pattern: Pattern, largest: Tensor
) -> None:
    """Raise the largest scores seen so far to those of this forward pass.

    A score is q k / sqrt(head_dim) of a query and a key that it may see, as it enters
    the softmax. Its gradient is not taken.

    Args:
        q_bshd: [B, S, H, head_dim].
        k_bskd: [B, T, K, head_dim], H a multiple of K.
        pattern: which keys a query sees.
        largest: [H] float32, changed in place.
    """
    _note_largest(
        q_bshd.detach(),
        k_bskd.detach(),
        pattern.mask,
        pattern.cu_seqlens,
        pattern.window,
        pattern.causal,
        largest,
    )


@torch.library.custom_op("lumina::note_largest_scores", mutates_args=("largest",))
def _note_largest(
    q_bshd: Tensor,
    k_bskd: Tensor,
    mask: Tensor | None,
    cu_seqlens: Tensor | None,
    window: int,
    causal: bool,
    largest: Tensor,
) -> None:
    if mask is None and _has_kernel(q_bshd):
        from lumina.ops.largest_scores.fused import note_largest_, starts_of

        starts = None
        if cu_seqlens is not None:
            starts = starts_of(cu_seqlens, *q_bshd.shape[:2])
        note_largest_(q_bshd, k_bskd, starts, window, causal, largest)
        return
    batch, queries, heads, width = q_bshd.shape
    keys, groups = k_bskd.shape[1:3]
    q = q_bshd.transpose(1, 2).unflatten(1, (groups, -1))  # [B, K, H / K, S, d]
    k = k_bskd.transpose(1, 2)[:, :, None].transpose(-1, -2)  # [B, K, 1, d, T]
    documents = None
    if cu_seqlens is not None:
        places = torch.arange(batch * queries, device=q.device)
        documents = torch.searchsorted(cu_seqlens, places, right=True)
        documents = documents.view(batch, queries)
    row_bytes = batch * heads * keys * q.element_size()
    size = max(1, min(queries, SCORES_BYTES // row_bytes))
    found = torch.full_like(largest, -math.inf)
    for begin in range(0, queries, size):
        end = min(begin + size, queries)
        # In causal order later keys than the last query's own are not seen.
        seen = keys - queries + end if causal and mask is None else keys
        scores = q[..., begin:end, :] @ k[..., :seen]
        if mask is not None:
            part = mask[:, :, None, begin:end, :seen]
            if part.dtype != torch.bool:
                part = part == 0
            scores = scores.masked_fill_(~part, -math.inf)
        elif causal:
            part = _visible(keys - queries + begin, end - begin, seen, window, q.device)
            if documents is not None:
                own = documents[:, begin:end, None] == documents[:, None, :seen]
                part = part & own[:, None, None]
            scores = scores.masked_fill_(~part, -math.inf)
        found = torch.maximum(found, scores.amax((0, 3, 4)).flatten().float())
    torch.maximum(largest, found / math.sqrt(width), out=largest)


def _has_kernel(q_bshd: Tensor) -> bool:
    """Whether the kernel can read these queries; it sums products of 16 bits."""
    half = q_bshd.dtype in (torch.bfloat16, torch.float16)
    return q_bshd.is_cuda and half and has_triton()


def _visible(
    first: int, queries: int, keys: int, window: int, device: torch.device
) -> Tensor:
    """[queries, keys] bool: causal order of queries whose own key is `first` on."""
    query = torch.arange(first, first + queries, device=device)[:, None]
    key = torch.arange(keys, device=device)[None, :]
    visible = key <= query
    return visible & (key > query - window) if window else visible


@_note_largest.register_fake
def _(
    q_bshd: Tensor,
    k_bskd: Tensor,
    mask: Tensor | None,
    cu_seqlens: Tensor | None,
    window: int,
    causal: bool,
    largest: Tensor,
) -> None:
    return None
