"""Guesses of the coming tokens from what a row has said before (prompt lookup)."""

from __future__ import annotations

import torch
from torch import Tensor

LONGEST = 3
"""Tokens at a row's end that are looked for earlier in it, or fewer of them."""


def draft(history_bc: Tensor, count_b: Tensor, tokens: int) -> Tensor:
    """What followed the latest earlier place that reads like the end of a row.

    Of places that agree in more tokens, up to `LONGEST`, the latest one counts. Where
    what followed ends with the row, it is repeated. Where nothing agrees, anything is
    given: guesses are checked.

    Args:
        history_bc: [B, C] int64, what rows have said; anything behind it.
        count_b: [B] int64, tokens of each row, 1 at least.
        tokens: how many to guess.

    Returns:
        [B, tokens] int64.
    """
    place_c = torch.arange(history_bc.shape[1], device=history_bc.device)
    last_b1 = count_b[:, None] - 1
    agrees_bc = place_c < last_b1
    score_bc = torch.zeros_like(history_bc)
    for back in range(LONGEST):
        own_b1 = history_bc.gather(1, (last_b1 - back).clamp(min=0))
        # The token `back` places before each one; rows are not read around their start.
        earlier_bc = history_bc.roll(back, dims=1)
        agrees_bc = agrees_bc & (place_c >= back) & (earlier_bc == own_b1)
        score_bc = score_bc + agrees_bc
    width = history_bc.shape[1]
    best_b1 = (score_bc * width + place_c).argmax(dim=1, keepdim=True)
    found_b1 = score_bc.gather(1, best_b1) > 0
    best_b1 = torch.where(found_b1, best_b1, last_b1 - 1)
    begin_b1 = best_b1 + 1
    period_b1 = (count_b[:, None] - begin_b1).clamp(min=1)
    ahead_n = torch.arange(tokens, device=history_bc.device)
    return history_bc.gather(1, (begin_b1 + ahead_n % period_b1).clamp(max=width - 1))
