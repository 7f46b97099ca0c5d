"""Masks of attention, True where a query may see a key."""

from __future__ import annotations

import math

import torch
from torch import Tensor

from lumina.ops.attention.beyond import NOTHING, Beyond


def in_reach(
    query: Tensor, key: Tensor, start: Tensor | int, window: int, beyond: Beyond
) -> Tensor:
    """Causal order within a window, and what stays visible beyond it.

    Args:
        query: columns of the queries, int64.
        key: columns of the keys, which broadcasts with `query`.
        start: column of the first token of each query's document; only sinks read it.
        window: a query sees itself and the window - 1 keys before it; 0: all.
        beyond: read only with a window.

    Returns:
        Bool, of the shape to which the arguments broadcast. Keys of earlier documents
        are not hidden here.
    """
    seen = key <= query
    if not window:
        return seen
    near = query - key < window
    if beyond.sinks:
        near = near | (key - start < beyond.sinks)
    if beyond.dilation:
        near = near | ((query - key) % beyond.dilation == 0)
    return seen & near


def causal_mask(
    queries: int,
    keys: int,
    window: int,
    device: torch.device | str | None,
    beyond: Beyond = NOTHING,
) -> Tensor:
    """Causal order, the queries being the last of the keys.

    Args:
        window: a query sees itself and the window - 1 keys before it; 0: all.
        beyond: what stays visible before the window; rows are one document.

    Returns:
        [1, 1, queries, keys] bool.
    """
    query = torch.arange(keys - queries, keys, device=device)[:, None]
    key = torch.arange(keys, device=device)[None, :]
    return in_reach(query, key, 0, window, beyond)[None, None]


def document_mask(
    document_ids: Tensor, window: int, beyond: Beyond = NOTHING
) -> Tensor:
    """Causal order within each document of a packed row.

    Padding positions (-1) see the padding before them and themselves, so that they
    stay finite; no document sees them.

    Args:
        document_ids: [B, S] int64.
        window: as in `causal_mask`.
        beyond: what stays visible of a document before the window.

    Returns:
        [B, 1, S, S] bool.
    """
    length, device = document_ids.shape[1], document_ids.device
    same = document_ids[:, :, None] == document_ids[:, None, :]
    if not (window and beyond.sinks):
        return same[:, None] & causal_mask(length, length, window, device, beyond)
    column = torch.arange(length, device=device)
    start = document_starts(document_ids)[:, :, None]
    reach = in_reach(column[:, None], column, start, window, beyond)
    return (same & reach)[:, None]


def document_starts(document_ids: Tensor) -> Tensor:
    """The column in which the document of each token begins, [B, S] int64.

    Args:
        document_ids: [B, S] int64; the tokens of a document lie side by side, and so
            does padding.
    """
    column = torch.arange(document_ids.shape[1], device=document_ids.device)
    begins = torch.ones_like(document_ids, dtype=torch.bool)
    begins[:, 1:] = document_ids[:, 1:] != document_ids[:, :-1]
    return torch.where(begins, column, 0).cummax(dim=1).values


def additive(mask: Tensor, dtype: torch.dtype) -> Tensor:
    """The same mask to be added to scores: 0 where a query may see, else -inf.

    SDPA makes this of a boolean mask at every call and keeps it for backward, once a
    layer; made beforehand, all layers share one.
    """
    return torch.zeros(mask.shape, dtype=dtype, device=mask.device).masked_fill_(
        ~mask, -math.inf
    )
