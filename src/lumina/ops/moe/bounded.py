"""Experts that take so many tokens and no more: places, drops, and tokens sent on."""

from __future__ import annotations

from typing import NamedTuple

import torch
from torch import Tensor

from lumina.ops.low_bits.product import Weight
from lumina.ops.moe import capacity, reroute
from lumina.ops.moe.grouped import Through, alone
from lumina.ops.moe.parted import Parted
from lumina.ops.moe.routing import Routing


class Bounds(NamedTuple):
    """How many tokens an expert takes.

    Attributes:
        num_experts: of the layer.
        factor: places of an expert over its even share of the assignments.
        reserve: further places, as a share of those, for tokens that found none.
        share: [] float32, the part of the places that may be taken.
    """

    num_experts: int
    factor: float
    reserve: float
    share: Tensor


def routed_experts(
    x_td: Tensor,
    gate_up: Weight,
    down: Weight,
    routing: Routing,
    bounds: Bounds,
    valid_bs: Tensor | None,
    rows: int,
    through: Through = alone,
    parted: Parted | None = None,
) -> tuple[Tensor, Tensor, Tensor]:
    """Tokens through the experts that have a place for them.

    Args:
        x_td: [T, D].
        gate_up: [E, 2M, D], of the experts that are here.
        down: [E, D, M], likewise.
        routing: what the router decided.
        bounds: how many tokens an expert takes.
        valid_bs: [B, S] bool; padding takes no place. None: all are valid.
        rows: B, of which the T tokens are.
        through: as of `grouped.routed_experts`.
        parted: likewise.

    Returns:
        [T, D]; and [] float32 each, the assignments that were dropped, and those that
        were sent on to another expert.
    """
    experts, top_k = bounds.num_experts, routing.ids_tk.shape[1]
    places = capacity.expert_capacity(x_td.shape[0], top_k, experts, bounds.factor)
    # Round as if the layer had been built with the reduced capacity.
    exact = bounds.factor * routing.ids_tk.numel() / experts
    length = x_td.shape[0] // rows
    reserve = reroute.reserve_of(places, bounds.reserve)
    place_tk, column_tk = reroute.assign_with_reserve(
        routing.ids_tk.view(rows, length, -1),
        routing.next_tj.view(rows, length, -1),
        valid_bs,
        experts,
        places,
        reserve,
        bounds.share * (exact / places),
    )
    lost_tk = place_tk == experts * (places + reserve)
    if valid_bs is not None:
        lost_tk = lost_tk & valid_bs.reshape(-1, 1)
    sent_tk = column_tk != reroute.NOWHERE
    scores_tk = routing.scores_tk
    if routing.next_tj.shape[1]:
        other_tk = routing.next_scores_tj.gather(1, column_tk.clamp(min=0))
        scores_tk = torch.where(sent_tk, other_tk, scores_tk)
    y_td = capacity.routed_experts(
        x_td, gate_up, down, place_tk, scores_tk, places + reserve, through, parted
    )
    dropped, sent = (one.sum(dtype=torch.float32) for one in (lost_tk, sent_tk))
    return y_td, dropped, sent
