"""Experts divided over ranks against all of them in one process."""

from __future__ import annotations

import math
from typing import Any

import pytest
import torch
from torch import Tensor

from lumina.ops.moe import capacity, grouped, reference
from lumina.ops.moe.parted import Parted
from simulated_ranks import on_ranks

WIDTH, INNER, TOP_K = 8, 12, 2


def case(ranks: int, experts: int, tokens: list[int], seed: int) -> dict[str, Any]:
    """Weights, and for each rank its tokens, choices, scores and a projection."""
    g = torch.Generator().manual_seed(seed)

    def drawn(*shape: int) -> Tensor:
        return torch.randn(*shape, generator=g, dtype=torch.float64)

    return {
        "gate_up": drawn(experts, 2 * INNER, WIDTH) / math.sqrt(WIDTH),
        "down": drawn(experts, WIDTH, INNER) / math.sqrt(INNER),
        "x": [drawn(tokens[r], WIDTH) for r in range(ranks)],
        "ids": [
            torch.rand(tokens[r], experts, generator=g).topk(TOP_K, dim=-1).indices
            for r in range(ranks)
        ],
        "scores": [torch.rand(tokens[r], TOP_K, generator=g) for r in range(ranks)],
        "project": [drawn(tokens[r], WIDTH) for r in range(ranks)],
    }


def leaves(*tensors: Tensor) -> list[Tensor]:
    """Copies that take gradients."""
    return [tensor.clone().requires_grad_() for tensor in tensors]


def placed(ranks: int, experts: int, seed: int) -> tuple[Tensor, Tensor]:
    """The slot of each expert in some order, and the expert of each slot."""
    held = torch.randperm(experts, generator=torch.Generator().manual_seed(seed))
    return held.argsort(), held


def places_of(ids: Tensor, experts: int, places: int) -> Tensor:
    """Of one micro-batch of one row."""
    return capacity.assign_places(ids[None], None, experts, places)


def through(made: Any, x: Tensor, weights: list[Tensor], ids: Tensor, scores: Tensor):
    """The dropless experts, or those with `made["places"]` places."""
    parted = made.get("parted")
    if not made["places"]:
        return grouped.routed_experts(x, *weights, ids, scores, parted=parted)
    place = places_of(ids, made["experts"], made["places"])
    return capacity.routed_experts(
        x, *weights, place, scores, made["places"], parted=parted
    )


def by_ranks(given: dict[str, Any], ranks: int, experts: int, places: int, order: Any):
    """Outputs and gradients, each rank with the experts of its slots only."""
    each = experts // ranks
    slots, held = order or (None, None)
    stands = torch.arange(experts) if held is None else held

    def work(peers):
        own = stands[peers.rank * each : (peers.rank + 1) * each]
        x, scores = leaves(given["x"][peers.rank], given["scores"][peers.rank])
        weights = leaves(given["gate_up"][own], given["down"][own])
        made = {
            "experts": experts,
            "places": places,
            "parted": Parted(peers, experts, slots, held),
        }
        y = through(made, x, weights, given["ids"][peers.rank], scores)
        (y * given["project"][peers.rank]).sum().backward()
        return y.detach(), x.grad, scores.grad, own, [w.grad for w in weights]

    return on_ranks(ranks, work)


def in_one(given: dict[str, Any], ranks: int, experts: int, places: int):
    """The same with all experts, the ranks' micro-batches one after the other."""
    weights = leaves(given["gate_up"], given["down"])
    found = []
    for rank in range(ranks):
        x, scores = leaves(given["x"][rank], given["scores"][rank])
        ids = given["ids"][rank]
        if places:
            made = {"experts": experts, "places": places}
            y = through(made, x, weights, ids, scores)
        else:
            y = reference.routed_experts(x, *weights, ids, scores)
        (y * given["project"][rank]).sum().backward()
        found.append((y.detach(), x.grad, scores.grad))
    return found, [w.grad for w in weights]


@pytest.mark.parametrize("places", [0, 3], ids=["dropless", "capacity"])
@pytest.mark.parametrize("ranks", [2, 4])
@pytest.mark.parametrize("moved", [False, True], ids=["in_order", "placed"])
@pytest.mark.covers("DST-11: all-to-all")
def test_ranks_compute_what_one_process_does(ranks, places, moved) -> None:
    """Outputs and every gradient; scores are in float32, as everywhere."""
    experts, seed = 8, 10 * ranks + places
    tokens = [7] * ranks if places else [5, 0, 11, 3][:ranks]
    given = case(ranks, experts, tokens, seed)
    order = placed(ranks, experts, seed) if moved else None
    found = by_ranks(given, ranks, experts, places, order)
    wanted, gradients = in_one(given, ranks, experts, places)
    close = {"rtol": 1e-5, "atol": 1e-6}
    for (y, x, scores, own, mine), one in zip(found, wanted, strict=True):
        for left, right in zip((y, x, scores), one, strict=True):
            torch.testing.assert_close(left, right, **close)
        for left, right in zip(mine, gradients, strict=True):
            torch.testing.assert_close(left, right[own], **close)
    if places:
        nowhere = experts * places
        kept = [places_of(ids, experts, places) < nowhere for ids in given["ids"]]
        assert not torch.stack(kept).all(), "a case without drops shows little"


@pytest.mark.parametrize("chosen", [0, 3], ids=["on_the_first", "on_the_last"])
def test_a_rank_without_any_row_has_gradients_of_zero(chosen) -> None:
    """All tokens go to one expert: the other rank's products have nothing to do."""
    given = case(2, 4, [6, 2], seed=1)
    given["ids"] = [torch.full((n, 1), chosen) for n in (6, 2)]
    given["scores"] = [scores[:, :1] for scores in given["scores"]]
    found = by_ranks(given, 2, 4, 0, None)
    wanted, gradients = in_one(given, 2, 4, 0)
    for rank, (y, x, _, own, mine) in enumerate(found):
        torch.testing.assert_close(y, wanted[rank][0])
        torch.testing.assert_close(x, wanted[rank][1])
        for left, right in zip(mine, gradients, strict=True):
            torch.testing.assert_close(left, right[own])
            assert bool(left.any()) == (chosen in own)


def test_each_direction_takes_one_exchange_of_rows_there_and_one_back() -> None:
    """Counts, rows and results on the way forward; two gradients on the way back."""
    given = case(2, 4, [4, 4], seed=2)

    def work(peers):
        x, scores = leaves(given["x"][peers.rank], given["scores"][peers.rank])
        own = slice(2 * peers.rank, 2 * peers.rank + 2)
        weights = leaves(given["gate_up"][own], given["down"][own])
        made = {"experts": 4, "places": 0, "parted": Parted(peers, 4)}
        y = through(made, x, weights, given["ids"][peers.rank], scores)
        forward = peers.exchanges
        y.sum().backward()
        return forward, peers.exchanges - forward

    assert on_ranks(2, work) == [(3, 2), (3, 2)]
