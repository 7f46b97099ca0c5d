"""Masks of attention, True where a query may see a key."""

from __future__ import annotations

import math

import torch
from torch import Tensor


def causal_mask(
    queries: int, keys: int, window: int, device: torch.device | str | None
) -> Tensor:
    """Causal order, the queries being the last of the keys.

    Args:
        window: a query sees itself and the window - 1 keys before it; 0: all.

    Returns:
        [1, 1, queries, keys] bool.
    """
    query = torch.arange(keys - queries, keys, device=device)[:, None]
    key = torch.arange(keys, device=device)[None, :]
    mask = key <= query
    if window:
        mask = mask & (key > query - window)
    return mask[None, None]


def document_mask(document_ids: Tensor, window: int) -> Tensor:
    """Causal order within each document of a packed row.

    Padding positions (-1) see the padding before them and themselves, so that they
    stay finite; no document sees them.

    Args:
        document_ids: [B, S] int64.
        window: as in `causal_mask`.

    Returns:
        [B, 1, S, S] bool.
    """
    length = document_ids.shape[1]
    same = document_ids[:, :, None] == document_ids[:, None, :]
    causal = causal_mask(length, length, window, document_ids.device)
    return same[:, None] & causal


def additive(mask: Tensor, dtype: torch.dtype) -> Tensor:
    """The same mask to be added to scores: 0 where a query may see, else -inf.

    SDPA makes this of a boolean mask at every call and keeps it for backward, once a
    layer; made beforehand, all layers share one.
    """
    return torch.zeros(mask.shape, dtype=dtype, device=mask.device).masked_fill_(
        ~mask, -math.inf
    )
