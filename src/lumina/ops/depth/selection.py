"""Fixed shapes: k places in every row, whichever tokens take them.

Both directions of the move are gathers (see `lumina.ops.moe.permute`), so backward adds
in a fixed order and no row can touch another.
"""

from __future__ import annotations

import math
from dataclasses import dataclass

import torch
from torch import Tensor

from lumina.ops.moe.permute import combine, dispatch


@dataclass(frozen=True)
class Places:
    """Which token has which place.

    Attributes:
        index_bk: [B, k] int64, the token at each place, rising along a row.
        token_n: [B * k] the same in the flattened [B * S] tokens; B * S where the
            place is not taken, which reads as zeros and gives nothing back.
        place_t1: [B * S, 1] each token's place, or B * k where it has none.
    """

    index_bk: Tensor
    token_n: Tensor
    place_t1: Tensor


def places_for(capacity: float, length: int) -> int:
    """ceil(capacity * S), from 1 to S."""
    # The rounding keeps 0.55 * 100 = 55.00000000000001 from costing a place.
    return max(1, min(length, math.ceil(round(capacity * length, 6))))


def top_places(score_bs: Tensor, valid_bs: Tensor | None, count: int) -> Tensor:
    """The `count` tokens of the highest score in each row, in order of position.

    Neither ranks nor indices are sorted: the lowest score that is in is found, then
    places are counted.

    Args:
        score_bs: [B, S].
        valid_bs: [B, S] bool; padding comes after every token.

    Returns:
        [B, count] int64. Of equal scores the earlier token wins.
    """
    rows, length = score_bs.shape
    if count >= length:
        return torch.arange(length, device=score_bs.device).expand(rows, -1)
    # Rank NaN scores last; comparing with NaN would leave slots empty.
    score_bs = score_bs.detach().nan_to_num(nan=-math.inf)
    if valid_bs is not None:
        score_bs = score_bs.masked_fill(~valid_bs, -math.inf)
    lowest_b1 = score_bs.topk(count, dim=1, sorted=False).values.amin(1, keepdim=True)
    above_bs, level_bs = score_bs > lowest_b1, score_bs == lowest_b1
    room_b1 = count - above_bs.sum(dim=1, keepdim=True)
    chosen_bs = above_bs | (level_bs & (level_bs.cumsum(dim=1) <= room_b1))
    place_bs = torch.where(chosen_bs, chosen_bs.cumsum(dim=1) - 1, count)
    return _at_places(place_bs, count + 1)[:, :count]


def wanted_first(wanted_bs: Tensor, count: int) -> Tensor:
    """The first `count` wanted tokens of each row in order, then the others in order.

    A token with a place thus has only wanted ones before it: attention in causal
    order over the places is that over the wanted tokens.

    Args:
        wanted_bs: [B, S] bool.

    Returns:
        [B, count] int64.
    """
    rank_bs = wanted_bs.cumsum(dim=1)
    others_bs = (~wanted_bs).cumsum(dim=1) + rank_bs[:, -1:]
    place_bs = torch.where(wanted_bs, rank_bs, others_bs) - 1
    return _at_places(place_bs, wanted_bs.shape[1])[:, :count]


def _at_places(place_bs: Tensor, places: int) -> Tensor:
    """The token at each place, [B, places], from the place of each token [B, S]."""
    rows, length = place_bs.shape
    token_bs = torch.arange(length, device=place_bs.device).expand(rows, -1)
    return (
        torch.zeros_like(token_bs[:, :1])
        .repeat(1, places)
        .scatter(1, place_bs, token_bs)
    )


def seat(index_bk: Tensor, length: int, taken_bk: Tensor | None = None) -> Places:
    """Number the places of all rows.

    Args:
        index_bk: [B, k] int64, different tokens of each row of `length`.
        taken_bk: [B, k] bool; all places are when absent.
    """
    rows, count = index_bk.shape
    first_b1 = torch.arange(rows, device=index_bk.device)[:, None] * length
    token_n = (index_bk + first_b1).reshape(-1)
    number_n = torch.arange(rows * count, device=index_bk.device)
    if taken_bk is not None:
        number_n = torch.where(taken_bk.reshape(-1), number_n, rows * count)
    empty_t = torch.full((rows * length,), rows * count, device=index_bk.device)
    place_t1 = empty_t.scatter(0, token_n, number_n)[:, None]
    if taken_bk is not None:
        token_n = torch.where(taken_bk.reshape(-1), token_n, rows * length)
    return Places(index_bk, token_n, place_t1)


def gather_tokens(x_bsd: Tensor, places: Places) -> Tensor:
    """[B, S, D] to the [B, k, D] at the places."""
    rows, count = places.index_bk.shape
    x_nd = dispatch(x_bsd.flatten(0, 1), places.token_n, places.place_t1, holes=True)
    return x_nd.view(rows, count, -1)


def add_back(
    x_bsd: Tensor, change_bkd: Tensor, weight_bs: Tensor, places: Places
) -> Tensor:
    """x + weight * change where a token had a place, x elsewhere.

    Args:
        x_bsd: [B, S, D].
        change_bkd: [B, k, D].
        weight_bs: [B, S] float32; its gradient reaches the router.

    Returns:
        [B, S, D] in the type of `x_bsd`.
    """
    change_td = combine(
        change_bkd.flatten(0, 1),
        weight_bs.reshape(-1, 1),
        places.place_t1,
        places.token_n,
        holes=True,
    )
    return x_bsd + change_td.view(x_bsd.shape)


def put_back(x_bnd: Tensor, chosen_bkd: Tensor, places: Places) -> Tensor:
    """x with the tokens that have a place replaced by what sits there."""
    count = places.token_n.numel()
    put_td = dispatch(
        chosen_bkd.flatten(0, 1),
        places.place_t1[:, 0],
        places.token_n[:, None],
        holes=True,
    )
    has_t1 = places.place_t1 < count
    put_bnd, has_bn1 = put_td.view(x_bnd.shape), has_t1.view(*x_bnd.shape[:2], 1)
    return torch.where(has_bn1, put_bnd, x_bnd)
