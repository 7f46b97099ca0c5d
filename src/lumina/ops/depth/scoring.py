"""Scores of tokens by a linear map of the normalised token, in float32."""

from __future__ import annotations

import torch
from torch import Tensor


def token_scores(x_bsd: Tensor, weight_rd: Tensor, eps: float) -> Tensor:
    """weight . x / rms(x): what a linear map says of tokens of length sqrt(D).

    The map and the length are both sums over a token, so that compiled they are one
    reading of it, and no normalised copy of all tokens is written or kept.

    Args:
        x_bsd: [B, S, D] in any floating type.
        weight_rd: [R, D].
        eps: as of RMSNorm.

    Returns:
        [B, S, R] float32.
    """
    x_bsd = x_bsd.float()
    scale_bs = torch.rsqrt(x_bsd.square().mean(dim=-1) + eps)
    products = [(x_bsd * weight_d).sum(dim=-1) for weight_d in weight_rd.float()]
    return torch.stack([one * scale_bs for one in products], dim=-1)
