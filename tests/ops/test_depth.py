"""Choosing tokens, gathering them and adding back, against plain indexing."""

from __future__ import annotations

from functools import partial

import pytest
import torch

from lumina.ops.depth import reference
from lumina.ops.depth.selection import (
    add_back,
    gather_tokens,
    places_for,
    seat,
    top_places,
)


@pytest.mark.parametrize("count", [1, 5, 11, 12])
def test_selection_is_the_references(count):
    g = torch.Generator().manual_seed(count)
    # Few values, so that many are equal; some rows have fewer tokens than places.
    score = torch.randint(0, 4, (3, 12), generator=g).float()
    valid = torch.arange(12) < torch.tensor([12, 9, 3])[:, None]
    index = top_places(score, valid, count)
    assert index.tolist() == reference.top_tokens(score, valid, count)


def test_the_change_is_added_where_a_token_was_chosen():
    g = torch.Generator().manual_seed(0)
    x = torch.randn(2, 9, 4, generator=g, dtype=torch.float64).float()
    weight = torch.rand(2, 9, generator=g)
    score = torch.rand(2, 9, generator=g)
    matrix = torch.randn(4, 4, generator=g)
    results = []
    for fast in (True, False):
        leaves = [t.clone().requires_grad_() for t in (x, weight, matrix)]
        xs, ws, m = leaves
        index = top_places(score, None, 4)
        if fast:
            places = seat(index, 9)
            out = add_back(xs, gather_tokens(xs, places) @ m, ws, places)
        else:
            function = partial(torch.matmul, other=m)
            out = reference.through_chosen(xs, ws, index.tolist(), function)
        (out**2).sum().backward()
        results.append([out, *(leaf.grad for leaf in leaves)])
    for one, two in zip(*results, strict=True):
        torch.testing.assert_close(one, two)


def test_an_empty_place_changes_nothing_and_gets_no_gradient():
    x = torch.randn(1, 4, 3, requires_grad=True)
    weight = torch.ones(1, 4, requires_grad=True)
    index = torch.tensor([[0, 2, 3]])
    places = seat(index, 4, torch.tensor([[True, False, True]]))
    change = torch.randn(1, 3, 3, requires_grad=True)
    out = add_back(x, change, weight, places)
    assert torch.equal(out[0, 1:3], x[0, 1:3])
    out.sum().backward()
    assert change.grad[0, 1].abs().sum() == 0 < change.grad[0, 2].abs().sum()
    assert weight.grad[0, 2] == 0 != weight.grad[0, 3]


@pytest.mark.parametrize(
    ("capacity", "length", "places"),
    [(0.5, 7, 4), (0.55, 100, 55), (0.125, 2048, 256), (1.0, 9, 9), (0.001, 9, 1)],
)
def test_places_are_the_share_rounded_up(capacity, length, places):
    assert places_for(capacity, length) == places
