"""The oracle: rows one after another, everything in the open."""

from __future__ import annotations

import math
from collections.abc import Callable

import torch
from torch import Tensor


def top_tokens(score_bs: Tensor, valid_bs: Tensor, count: int) -> list[list[int]]:
    """For each row the `count` tokens of the highest score, in order of position.

    Padding comes last whatever its score; of equal scores the earlier token wins.
    """
    chosen = []
    for scores, valid in zip(score_bs.tolist(), valid_bs.tolist(), strict=True):
        pairs = zip(scores, valid, strict=True)
        known = [score if real else -math.inf for score, real in pairs]
        ranked = sorted(range(len(known)), key=lambda s: (-known[s], s))
        chosen.append(sorted(ranked[:count]))
    return chosen


def through_chosen(
    x_bsd: Tensor,
    weight_bs: Tensor,
    chosen: list[list[int]],
    function: Callable[[Tensor], Tensor],
) -> Tensor:
    """x + weight * function(x) for the chosen tokens, x for the others.

    Args:
        x_bsd: [B, S, D].
        weight_bs: [B, S] float32.
        chosen: of each row, indices in order.
        function: [n, D] to [n, D], the chosen tokens of one row.
    """
    rows = []
    for x_sd, weight_s, index in zip(x_bsd, weight_bs, chosen, strict=True):
        picked = torch.tensor(index, dtype=torch.long, device=x_sd.device)
        change_nd = function(x_sd[picked]) * weight_s[picked, None]
        rows.append(x_sd.index_add(0, picked, change_nd.to(x_sd.dtype)))
    return torch.stack(rows)
