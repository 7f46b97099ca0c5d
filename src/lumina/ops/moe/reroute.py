"""Tokens past the places of an expert go to their next best one, which has a reserve.

An expert's own places are taken in the order of `lumina.ops.moe.capacity`. Whoever
finds none there asks the best expert that the token has not asked yet, which keeps
further places for such tokens alone, taken in the same order. So no assignment depends
on a later position: had they been given what the others leave over, it would. A token
that finds no place in the reserve either is dropped there.
"""

from __future__ import annotations

import torch
from torch import Tensor

from lumina.ops.moe.capacity import assign_places, ranks_in_order

NOWHERE = -1
"""The expert of an assignment that has no other one to ask."""


def reserve_of(places: int, share: float) -> int:
    """Further places of an expert: that share of its own, at least one; 0 for none."""
    return max(1, round(places * share)) if share > 0 else 0


def assign_with_reserve(
    ids_bsk: Tensor,
    next_bsj: Tensor,
    valid_bs: Tensor | None,
    num_experts: int,
    places: int,
    reserve: int,
    share: Tensor | None = None,
) -> tuple[Tensor, Tensor]:
    """The place of every assignment, at its own expert or at the next best one.

    Args:
        ids_bsk: [B, S, k] chosen experts.
        next_bsj: [B, S, j] the experts that follow them, best first.
        valid_bs: [B, S] bool; padding takes no place.
        num_experts: of the layer.
        places: of one expert, for those who chose it.
        reserve: its places for those who found none where they wanted.
        share: [] float32, the part of `places` that may be taken; all when absent.

    Returns:
        [B * S, k] int64 places, expert e owning those from e * (places + reserve) on,
        `num_experts * (places + reserve)` for an assignment that was dropped; and
        [B * S, k] int64, which of the following experts an assignment went to: the
        number of a column of `next_bsj`, or `NOWHERE` for one at its own expert or
        dropped.
    """
    rows, length, top_k = ids_bsk.shape
    others, whole = next_bsj.shape[-1], places + reserve
    nowhere = num_experts * whole
    own_tk = assign_places(ids_bsk, valid_bs, num_experts, places, share)
    lost_tk = own_tk == num_experts * places
    place_tk = own_tk // places * whole + own_tk % places
    place_tk = torch.where(lost_tk, nowhere, place_tk)
    column_tk = torch.full_like(place_tk, NOWHERE)
    if not others or not reserve:
        return place_tk, column_tk
    # The first assignment of a token that is lost asks the first that follows.
    asks_tk = lost_tk if valid_bs is None else lost_tk & valid_bs.reshape(-1, 1)
    turn_tk = asks_tk.cumsum(dim=1) - 1
    asks_tk = asks_tk & (turn_tk < others)
    turn_tk = turn_tk.clamp(0, others - 1)
    asked_tk = next_bsj.reshape(-1, others).gather(1, turn_tk)
    shape = (rows, length, top_k)
    rank_tk = ranks_in_order(asked_tk.view(shape), asks_tk.view(shape), num_experts)
    found_tk = asks_tk & (rank_tk < reserve)
    there_tk = asked_tk * whole + places + rank_tk
    return (
        torch.where(found_tk, there_tk, place_tk),
        torch.where(found_tk, turn_tk, column_tk),
    )
