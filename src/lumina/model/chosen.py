"""What attention needs to know when a block sees only some tokens of every row."""

from __future__ import annotations

from dataclasses import dataclass, replace

import torch
from torch import Tensor

from lumina.model.attention import BlockContext
from lumina.ops.attention.dispatch import Pattern
from lumina.ops.attention.fused import varlen_fits
from lumina.ops.attention.masks import additive
from lumina.ops.depth.selection import Places


@dataclass(frozen=True)
class Tokens:
    """The tokens a block sees, by where they stand in the whole row.

    Attributes:
        columns: [B, n] int64, places in the row of `length` (of this forward pass).
        positions: [B, n] int64, positions in their documents.
        documents: [B, n] int64, -1 for padding and for places nobody takes.
        cu_seqlens: [N + 1] int32, document starts in the whole rows.
        max_seqlen: at least the longest document.
        length: S, columns of a whole row.
        plain: every row is one document, and every place is taken.
        backend: the attention wished for.
        window: as in `ModelSpec`.
        dtype: of keys and values.
    """

    columns: Tensor
    positions: Tensor
    documents: Tensor
    cu_seqlens: Tensor
    max_seqlen: int
    length: int
    plain: bool
    backend: str
    window: int
    dtype: torch.dtype


def narrow(
    context: BlockContext,
    places: Places,
    taken_bk: Tensor | None = None,
) -> BlockContext:
    """The context of the tokens at `places`.

    Rotary tables keep the original positions. A token sees the chosen ones of its own
    document up to itself, so the rest leave no key behind.

    Args:
        context: of the tokens that `places` index; it may be narrowed already.
        taken_bk: [B, k] bool, the places somebody takes; all when absent.
    """
    tokens = context.tokens
    assert tokens is not None
    index_bk = places.index_bk
    documents_bk = tokens.documents.gather(1, index_bk)
    if taken_bk is not None:
        documents_bk = documents_bk.masked_fill(~taken_bk, -1)
    chosen = replace(
        tokens,
        columns=tokens.columns.gather(1, index_bk),
        positions=tokens.positions.gather(1, index_bk),
        documents=documents_bk,
        plain=tokens.plain and taken_bk is None,
    )
    table = index_bk[:, :, None, None].expand(-1, -1, 1, context.cos.shape[-1])
    rows = index_bk.shape[0]
    cos, sin = (
        t.expand(rows, -1, -1, -1).gather(1, table) for t in (context.cos, context.sin)
    )
    taken, pattern = None, context.pattern
    if context.cache is None:
        pattern = _pattern(chosen)
    else:  # the pattern depends on what the layer kept before
        taken = torch.ones_like(index_bk, dtype=torch.bool)
        taken = taken if taken_bk is None else taken_bk
    return replace(
        context,
        cos=cos,
        sin=sin,
        pattern=pattern,
        valid=documents_bk >= 0,
        taken=taken,
        tokens=chosen,
    )


def _masked(backend: str) -> str:
    return "reference" if backend == "reference" else "sdpa"


def _pattern(tokens: Tokens) -> Pattern:
    """Attention among the chosen tokens of a forward pass without a cache."""
    backend, window = tokens.backend, tokens.window
    if window >= tokens.length:
        window = 0
    if tokens.plain and not window:
        return Pattern(_masked(backend))
    device = tokens.columns.device
    if backend == "varlen" and not window and varlen_fits(device, tokens.dtype):
        rows, count = tokens.columns.shape
        first = torch.arange(rows, device=device)[:, None] * tokens.length
        flat = (tokens.columns + first).flatten()
        starts = torch.searchsorted(flat, tokens.cu_seqlens, out_int32=True)
        return Pattern("varlen", None, starts, min(tokens.max_seqlen, count))
    query, key = tokens.columns[:, :, None], tokens.columns[:, None, :]
    seen = tokens.documents[:, :, None] == tokens.documents[:, None, :]
    seen = seen & (key <= query)
    if window:
        seen = seen & (key > query - window)
    mask = seen[:, None]
    if backend == "reference":
        return Pattern(backend, mask)
    return Pattern("sdpa", additive(mask, tokens.dtype))
