"""Stablemax cross entropy (Prieto et al., 2025, arXiv:2501.04697).

Softmax with exp(x) replaced by s(x) = x + 1 for x >= 0 and 1 / (1 - x) below: no term
overflows and none vanishes, so confident models keep a gradient.
"""

from __future__ import annotations

import torch
from torch import Tensor


def log_stablemax(logits: Tensor) -> Tensor:
    """log(s(x) / sum s(x)) over the last dimension, in the type of `logits`.

    log s(x) is log(1 + |x|) with the sign of x, which needs no division and has no
    branch whose gradient is not finite.
    """
    negative = logits < 0
    size = torch.log1p(torch.where(negative, -logits, logits))
    scores = torch.where(negative, -size, size)
    return scores - scores.logsumexp(dim=-1, keepdim=True)


def stablemax_cross_entropy(logits: Tensor, labels: Tensor, ignore: int) -> Tensor:
    """Cross entropy of every position, in float64, 0 where the label is `ignore`.

    Args:
        logits: [..., V] of any floating type.
        labels: [...] int64.
        ignore: the label of positions that do not count.

    Returns:
        [...] float64.
    """
    log_p = log_stablemax(logits.double())
    counted = labels != ignore
    chosen = log_p.gather(-1, torch.where(counted, labels, 0)[..., None]).squeeze(-1)
    return -torch.where(counted, chosen, 0.0)
