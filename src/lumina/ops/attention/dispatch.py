"""Which keys a query may see, decided once per forward pass, and the kernel for it."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass

import torch
from torch import Tensor

from lumina.batch import PartOfRows
from lumina.ops.attention.beyond import NOTHING, Beyond
from lumina.ops.attention.blockwise import blockwise
from lumina.ops.attention.fused import sdpa, varlen, varlen_fits
from lumina.ops.attention.masks import (
    additive,
    causal_mask,
    document_mask,
    document_starts,
)
from lumina.ops.attention.reference import attention as reference
from lumina.ops.attention.ring.part import ring_attention

BACKENDS = ("varlen", "sdpa", "reference", "blockwise")

_observer: Callable[[Tensor, Tensor], None] | None = None


@contextmanager
def observed(observer: Callable[[Tensor, Tensor], None]) -> Iterator[None]:
    """Show the queries and keys of every call of `attend`, in uncompiled code.

    Args:
        observer: is given both before each call, as `attend` is.
    """
    global _observer
    _observer = observer
    try:
        yield
    finally:
        _observer = None


@dataclass(frozen=True)
class Pattern:
    """Which keys each query sees; shared by all layers of a forward pass.

    Attributes:
        backend: an entry of `BACKENDS`, as it will really run.
        mask: [B or 1, 1, S, T] bool (for SDPA also its `additive` form), or None for
            plain causal order in which the queries are the last S of the T keys, or
            for every key where `causal` is off.
        cu_seqlens: [N + 1] int32 document starts (varlen).
        max_seqlen: at least the longest document (varlen).
        window: tokens a query sees, itself among them; 0: all (varlen, blockwise).
        beyond: what stays visible beyond the window (blockwise). None: nothing; an
            object as the default would cut a graph in which patterns are made.
        starts: [B, S] int64, the column in which the document of each query begins;
            None: every row is one document (blockwise).
        earlier: computes attention itself, of queries and new keys to earlier keys,
            which it holds (blockwise).
        ring: names what is seen of rows that several ranks share, a `Sight` (ring).
    """

    backend: str
    mask: Tensor | None = None
    cu_seqlens: Tensor | None = None
    max_seqlen: int = 0
    window: int = 0
    causal: bool = True
    beyond: Beyond | None = None
    starts: Tensor | None = None
    earlier: Callable[[Tensor, Tensor, Tensor], Tensor] | None = None
    ring: Tensor | None = None


def make_pattern(
    backend: str,
    document_ids: Tensor,
    cu_seqlens: Tensor,
    max_seqlen: int,
    *,
    one_document_rows: bool,
    window: int,
    dtype: torch.dtype,
    beyond: Beyond = NOTHING,
    part: PartOfRows | None = None,
) -> Pattern:
    """Attention within the documents of a batch.

    Rows that are one document each need no mask: the causal kernels are the fastest.
    The variable-length kernel exists for half precision on CUDA; elsewhere a mask
    through SDPA gives the same result.

    Args:
        backend: the one wished for.
        document_ids: [B, S] int64, -1 for padding.
        cu_seqlens: [N + 1] int32.
        max_seqlen: at least the longest document.
        one_document_rows: every row is one document without padding.
        window: tokens a query sees, itself among them; 0: all.
        dtype: of queries, keys and values.
        beyond: what stays visible beyond the window.
        part: where the columns stand in rows that several ranks share; these see the
            keys of all of them, by whichever kernel has the sums, and need no other
            backend. Dilation has no pieces, and is refused before a run.
    """
    if part is not None:
        assert not (window and beyond.dilation), "no pieces of a ring have dilation"
        return Pattern("blockwise", ring=part.seen(window, beyond.sinks))
    length, device = document_ids.shape[1], document_ids.device
    if window >= length:
        window = 0
    if backend == "blockwise":
        starts = None if one_document_rows else document_starts(document_ids)
        return Pattern(backend, window=window, beyond=beyond, starts=starts)
    if one_document_rows and not window:
        return Pattern("sdpa" if backend == "varlen" else backend)
    if backend == "varlen" and not beyond and varlen_fits(device, dtype):
        return Pattern("varlen", None, cu_seqlens, max_seqlen, window)
    if one_document_rows:
        mask = causal_mask(length, length, window, device, beyond)
    else:
        mask = document_mask(document_ids, window, beyond)
    if backend == "reference":
        return Pattern(backend, mask)
    return Pattern("sdpa", additive(mask, dtype))


def attend(q_bshd: Tensor, k_bskd: Tensor, v_bskd: Tensor, pattern: Pattern) -> Tensor:
    """Attention of queries to keys by a pattern.

    Args:
        q_bshd: [B, S, H, head_dim].
        k_bskd: [B, T, K, head_dim]; `v_bskd` alike.

    Returns:
        [B, S, H, head_dim].
    """
    if _observer is not None:
        _observer(q_bshd, k_bskd)
    if pattern.earlier is not None:
        return pattern.earlier(q_bshd, k_bskd, v_bskd)
    if pattern.ring is not None:
        seen: Tensor
        seen, _ = ring_attention(q_bshd, k_bskd, v_bskd, pattern.ring)
        return seen
    if pattern.backend == "varlen":
        assert pattern.cu_seqlens is not None
        return varlen(
            q_bshd.flatten(0, 1),
            k_bskd.flatten(0, 1),
            v_bskd.flatten(0, 1),
            pattern.cu_seqlens,
            pattern.max_seqlen,
            pattern.window,
        ).view(q_bshd.shape)
    if pattern.backend == "blockwise":
        where = pattern.starts, pattern.window, pattern.beyond or NOTHING
        return blockwise(q_bshd, k_bskd, v_bskd, *where)
    q, k, v = (x.transpose(1, 2) for x in (q_bshd, k_bskd, v_bskd))
    queries, keys = q.shape[2], k.shape[2]
    mask = pattern.mask
    if pattern.backend == "reference":
        if mask is None and pattern.causal:
            mask = causal_mask(queries, keys, 0, q.device)
        elif mask is None:
            mask = torch.ones(queries, keys, dtype=torch.bool, device=q.device)
        return reference(q, k, v, mask).transpose(1, 2)
    if mask is None and pattern.causal and queries != keys and queries > 1:
        # SDPA's own causal order would count from the first key, not from the last.
        mask = causal_mask(queries, keys, 0, q.device)
    causal = mask is None and pattern.causal and queries == keys
    return sdpa(q, k, v, mask, causal=causal).transpose(1, 2)
