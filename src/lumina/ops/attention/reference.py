"""Attention with every score in the open: softmax(QK' / sqrt(d)) V in float32."""

from __future__ import annotations

import math

import torch
from torch import Tensor


def attention(q_bhsd: Tensor, k_bktd: Tensor, v_bktd: Tensor, mask: Tensor) -> Tensor:
    """Masked attention; groups of query heads share a key/value head.

    Args:
        q_bhsd: [B, H, S, head_dim].
        k_bktd: [B, K, T, head_dim], H a multiple of K; `v_bktd` alike.
        mask: bool, broadcast to [B, 1, S, T]; True where a query may see a key.

    Returns:
        [B, H, S, head_dim] in the type of the queries.
    """
    group = q_bhsd.shape[1] // k_bktd.shape[1]
    keys = k_bktd.float().repeat_interleave(group, dim=1)
    values = v_bktd.float().repeat_interleave(group, dim=1)
    scores = q_bhsd.float() @ keys.transpose(-1, -2) / math.sqrt(q_bhsd.shape[-1])
    scores = scores.masked_fill(~mask, -math.inf)
    return (torch.softmax(scores, dim=-1) @ values).to(q_bhsd.dtype)
