"""What attention needs to know when a block sees only some tokens of every row."""

from __future__ import annotations

from dataclasses import dataclass, replace

import torch
from torch import Tensor

from lumina.model.context import BlockContext, Tokens
from lumina.ops.attention.dispatch import Pattern
from lumina.ops.attention.fused import varlen_fits
from lumina.ops.attention.masks import additive
from lumina.ops.depth.segments import first_not_below
from lumina.ops.depth.selection import Places


@dataclass(frozen=True)
class SharedKeys:
    """Keys of the first pass that deeper passes attend to.

    Attributes:
        first: the context of that pass.
        count: T, keys a row has, those of a cache included.
    """

    first: BlockContext
    count: int


def narrow(
    context: BlockContext,
    places: Places,
    taken_bk: Tensor | None = None,
    shared: SharedKeys | None = None,
) -> BlockContext:
    """The context of the tokens at `places`.

    Rotary tables keep the original positions. A token sees the chosen ones of its own
    document up to itself, so the rest leave no key behind; with `shared` keys it sees
    the keys of all tokens.

    Args:
        context: of the tokens that `places` index; it may be narrowed already.
        taken_bk: [B, k] bool, the places that are taken, in each row before the others
            (see `wanted_first`); all when absent.
        shared: keys of another pass, in place of the tokens' own.
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
        holes=tokens.holes or taken_bk is not None,
    )
    table = index_bk[:, :, None, None].expand(-1, -1, 1, context.cos.shape[-1])
    rows = index_bk.shape[0]
    cos, sin = (
        t.expand(rows, -1, -1, -1).gather(1, table) for t in (context.cos, context.sin)
    )
    taken, pattern = None, context.pattern
    if shared is not None:
        pattern = _across(chosen, shared)
    elif context.cache is None:
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


def _window(tokens: Tokens) -> int:
    """The window, 0 where it hides nothing."""
    return 0 if tokens.window >= tokens.length else tokens.window


def _pattern(tokens: Tokens) -> Pattern:
    """Attention among the chosen tokens of a forward pass without a cache."""
    backend, window = tokens.backend, _window(tokens)
    if tokens.plain and not window:
        return Pattern(_masked(backend))
    device = tokens.columns.device
    if backend == "varlen" and not window and varlen_fits(device, tokens.dtype):
        # No document is longer than a row; the number itself would be compiled in.
        return Pattern("varlen", None, segments(tokens), tokens.columns.shape[1])
    query, key = tokens.columns[:, :, None], tokens.columns[:, None, :]
    seen = tokens.documents[:, :, None] == tokens.documents[:, None, :]
    return _by_mask(tokens, _causal(seen, query, key, window))


def _causal(seen: Tensor, query: Tensor, key: Tensor, window: int) -> Tensor:
    """`seen` without later tokens and those before the window, counted in columns."""
    seen = seen & (key <= query)
    return seen & (key > query - window) if window else seen


def _by_mask(tokens: Tokens, seen_bkt: Tensor) -> Pattern:
    mask = seen_bkt[:, None]
    if tokens.backend == "reference":
        return Pattern("reference", mask)
    return Pattern("sdpa", additive(mask, tokens.dtype))


def segments(tokens: Tokens) -> Tensor:
    """Where documents begin in the flattened places [B * k], closed by B * k; int32.

    The empty places at the end of every row are a segment of their own.
    """
    device = tokens.columns.device
    rows = tokens.columns.shape[0]
    row_b1 = torch.arange(rows, device=device)[:, None]
    flat_bk = tokens.columns + row_b1 * tokens.length
    if not tokens.holes:
        return _begins(flat_bk, tokens.cu_seqlens.long())
    # Twice the place, so that the row's end has room between its last token and the
    # next row's first.
    ends_b1 = 2 * (row_b1 + 1) * tokens.length - 1
    flat_bk = torch.where(tokens.documents < 0, ends_b1, 2 * flat_bk)
    edges = torch.cat([2 * tokens.cu_seqlens.long(), ends_b1.flatten()]).sort().values
    return _begins(flat_bk, edges)


def _begins(flat_bk: Tensor, edges_n: Tensor) -> Tensor:
    """[N] int32: how many places, row after row, come before each edge."""
    places: Tensor = first_not_below(flat_bk.flatten(), edges_n)
    return places


def _across(tokens: Tokens, shared: SharedKeys) -> Pattern:
    """Chosen queries, [B, k], to the keys of every token of the first pass, [B, T].

    A token without a place still sees itself, so that every softmax has a key.
    """
    first, whole = shared.first, shared.first.tokens
    assert whole is not None
    columns_bk = tokens.columns
    key_t = torch.arange(shared.count, device=columns_bk.device)
    if first.cache is None:
        query_documents = whole.documents.gather(1, columns_bk)[:, :, None]
        seen = query_documents == whole.documents[:, None, :]
        query = columns_bk[:, :, None]
        return _by_mask(tokens, _causal(seen, query, key_t, _window(tokens)))
    mask = first.pattern.mask
    if mask is None:  # the new tokens are the last of all
        before = shared.count - whole.columns.shape[1]
        seen = key_t <= columns_bk[:, :, None] + before
    else:
        rows = columns_bk.shape[0]
        index = columns_bk[:, :, None].expand(-1, -1, shared.count)
        seen = mask.expand(rows, -1, -1, -1)[:, 0].gather(1, index)
    return Pattern(_masked(tokens.backend), seen[:, None])
