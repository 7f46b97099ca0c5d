"""Choosing tokens, gathering them and adding back, against plain indexing."""

from __future__ import annotations

from functools import partial

import pytest
import torch

from lumina.ops.depth import reference
from lumina.ops.depth.scoring import token_scores
from lumina.ops.depth.selection import (
    add_back,
    gather_tokens,
    places_for,
    seat,
    top_places,
    wanted_first,
)


@pytest.mark.parametrize("count", [1, 5, 11, 12])
def test_selection_is_the_references(count):
    g = torch.Generator().manual_seed(count)
    # Few values, so that many are equal; some rows have fewer tokens than places.
    score = torch.randint(0, 4, (3, 12), generator=g).float()
    valid = torch.arange(12) < torch.tensor([12, 9, 3])[:, None]
    index = top_places(score, valid, count)
    assert index.tolist() == reference.top_tokens(score, valid, count)


def test_every_place_is_taken_even_where_scores_are_not_numbers():
    score = torch.tensor([[1.0, float("nan"), 3.0, float("inf"), float("nan"), 2.0]])
    for count in range(1, 7):
        (index,) = top_places(score, None, count).tolist()
        assert len(set(index)) == count and index == sorted(index)
    assert top_places(score, None, 4).tolist() == [[0, 2, 3, 5]]


def test_wanted_tokens_come_first_and_both_kinds_in_order():
    g = torch.Generator().manual_seed(5)
    wanted = torch.rand(4, 11, generator=g) < torch.tensor([0, 0.3, 0.7, 1])[:, None]
    for count in (1, 6, 11):
        for row, index in zip(wanted, wanted_first(wanted, count), strict=True):
            by_hand = sorted(range(11), key=lambda s, row=row: (not row[s], s))
            assert index.tolist() == by_hand[:count]


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
def test_scores_are_those_of_the_normalised_token(dtype):
    """Values and gradients, against a norm and then a linear map."""
    g = torch.Generator().manual_seed(1)
    x0 = torch.randn(2, 5, 32, generator=g).to(dtype)
    w0 = torch.randn(3, 32, generator=g).to(dtype)
    out = torch.randn(2, 5, 3, generator=g)
    results = []
    for fast in (True, False):
        x, w = x0.clone().requires_grad_(), w0.clone().requires_grad_()
        if fast:
            scores = token_scores(x, w, 1e-5)
        else:
            normal = torch.nn.functional.rms_norm(x.float(), (32,), None, 1e-5)
            scores = torch.nn.functional.linear(normal, w.float())
        (scores * out).sum().backward()
        results.append((scores, x.grad, w.grad))
    for one, two in zip(*results, strict=True):
        torch.testing.assert_close(one, two)


@pytest.mark.covers("MOD-28: the rest pass by the residual")
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
