"""Experts with a fixed number of places: static shapes for any hardware, some drops.

Places are taken in the order (position in the row, choice, row): at every position the
first choices of all rows go before the second choices. No assignment depends on a
later position, so a model trained with drops stays causal, and no row of the batch is
favoured over the others.
"""

from __future__ import annotations

import math

import torch
from torch import Tensor

from lumina.ops.low_bits.product import Weight, multiplied
from lumina.ops.moe.grouped import Through, alone, swiglu
from lumina.ops.moe.parted import Parted, places_across
from lumina.ops.moe.permute import combine, dispatch


def expert_capacity(tokens: int, top_k: int, num_experts: int, factor: float) -> int:
    """Places of one expert: ceil(factor * tokens * k / experts), at most `tokens`."""
    # The rounding keeps 1.1 * 100 = 110.00000000000001 from costing a place.
    share = round(factor * tokens * top_k / num_experts, 6)
    return max(1, min(math.ceil(share), tokens))


def assign_places(
    ids_bsk: Tensor,
    valid_bs: Tensor | None,
    num_experts: int,
    capacity: int,
    share: Tensor | None = None,
) -> Tensor:
    """The place of every assignment, or `num_experts * capacity` if it was dropped.

    Args:
        ids_bsk: [B, S, k] chosen experts.
        valid_bs: [B, S] bool; padding takes no place.
        capacity: places of one expert.
        share: [] float32, the part of the places that may be taken (at least one),
            so that fewer need no other shapes; all when absent.

    Returns:
        [B * S, k] int64; expert e owns places e * capacity to (e + 1) * capacity - 1.
    """
    rows, length, top_k = ids_bsk.shape
    ids_n = ids_bsk.permute(1, 2, 0).reshape(-1)
    experts = torch.arange(num_experts, device=ids_bsk.device)
    wants_ne = ids_n[:, None] == experts
    if valid_bs is not None:
        valid_n = valid_bs.t()[:, None, :].expand(length, top_k, rows).reshape(-1)
        wants_ne = wants_ne & valid_n[:, None]
    rank_ne = wants_ne.cumsum(dim=0, dtype=torch.int32) - 1
    rank_n = rank_ne.gather(1, ids_n[:, None]).squeeze(1)
    limit: Tensor | int = capacity
    if share is not None:
        # The small part absorbs rounding: a share of 0.6 of 5 places is 3 of them.
        limit = (capacity * share - 1e-3).ceil().clamp(1, capacity)
    kept_n = (rank_n < limit) & wants_ne.any(dim=1)
    place_n = torch.where(kept_n, ids_n * capacity + rank_n, num_experts * capacity)
    return place_n.view(length, top_k, rows).permute(2, 0, 1).reshape(-1, top_k)


def ranks_in_order(ids_bsk: Tensor, wants_bsk: Tensor, num_experts: int) -> Tensor:
    """How many that want the same expert stand before each assignment.

    Args:
        ids_bsk: [B, S, k] experts.
        wants_bsk: [B, S, k] bool; others are not counted.
        num_experts: of the layer.

    Returns:
        [B * S, k] int64; of no meaning for those that do not want one.
    """
    rows, length, top_k = ids_bsk.shape
    ids_n = ids_bsk.permute(1, 2, 0).reshape(-1)
    wants_n = wants_bsk.permute(1, 2, 0).reshape(-1)
    experts = torch.arange(num_experts, device=ids_bsk.device)
    wants_ne = (ids_n[:, None] == experts) & wants_n[:, None]
    rank_ne = wants_ne.cumsum(dim=0, dtype=torch.int32) - 1
    rank_n = rank_ne.gather(1, ids_n[:, None]).squeeze(1).long()
    return rank_n.view(length, top_k, rows).permute(2, 0, 1).reshape(-1, top_k)


def routed_experts(
    x_td: Tensor,
    gate_up: Weight,
    down: Weight,
    place_tk: Tensor,
    scores_tk: Tensor,
    capacity: int,
    through: Through = alone,
    parted: Parted | None = None,
) -> Tensor:
    """Tokens through the experts where they have a place; zeros elsewhere.

    Args:
        place_tk: [T, k] from `assign_places`. The rest as in `reference`.
        parted: how experts are divided over ranks, each of which has the matrices of
            its own ones and as many places as any other; None: all of them are here.
    """
    tokens, top_k = place_tk.shape
    width = gate_up.shape[-1]
    num_experts = gate_up.shape[0] if parted is None else parted.num_experts
    places = num_experts * capacity
    # One extra place collects everything that was dropped, and is cut off.
    empty = torch.full((places + 1,), tokens * top_k, device=x_td.device)
    numbers = torch.arange(tokens * top_k, device=x_td.device)
    assignment_n = empty.scatter(0, place_tk.reshape(-1), numbers)[:places]
    x_nd = dispatch(x_td, assignment_n // top_k, place_tk, holes=True)
    x_ecd = x_nd.view(num_experts, capacity, width)

    def feed(rows_ecd: Tensor) -> Tensor:
        hidden_ecm = swiglu(through("gate_up", rows_ecd, gate_up, multiplied))
        return through("down", hidden_ecm, down, multiplied)

    y_ecd = feed(x_ecd) if parted is None else places_across(x_ecd, parted, feed)
    y_nd = y_ecd.reshape(places, width)
    return combine(y_nd, scores_tk, place_tk, assignment_n, holes=True)
