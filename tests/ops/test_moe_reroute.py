"""Places at the next best expert, against a loop over the assignments."""

from __future__ import annotations

import pytest
import torch

from lumina.ops.moe.reroute import NOWHERE, assign_with_reserve, reserve_of


def by_hand(ids, following, valid, experts, places, reserve):
    """The same, one assignment after the other, first own places and then reserves."""
    rows, length, top_k = ids.shape
    whole = places + reserve
    place = torch.full((rows, length, top_k), experts * whole)
    column = torch.full((rows, length, top_k), NOWHERE)
    own, kept = [0] * experts, [0] * experts
    for position in range(length):
        lost = []
        for choice in range(top_k):
            for row in range(rows):
                if not valid[row, position]:
                    continue
                expert = int(ids[row, position, choice])
                if own[expert] < places:
                    place[row, position, choice] = expert * whole + own[expert]
                else:
                    lost.append((choice, row))
                own[expert] += 1
        asked = [0] * rows
        for choice, row in lost:
            turn, asked[row] = asked[row], asked[row] + 1
            if turn >= following.shape[-1]:
                continue
            expert = int(following[row, position, turn])
            if kept[expert] < reserve:
                at = expert * whole + places + kept[expert]
                place[row, position, choice], column[row, position, choice] = at, turn
            kept[expert] += 1
    return place.view(-1, top_k), column.view(-1, top_k)


@pytest.mark.parametrize("seed", range(8))
@pytest.mark.parametrize(("top_k", "experts"), [(1, 4), (2, 6), (2, 3)])
def test_places_are_those_of_the_loop(seed, top_k, experts):
    generator = torch.Generator().manual_seed(seed)
    scores = torch.rand(3, 11, experts, generator=generator)
    scores[..., 0] += 0.5  # one that many want
    order = scores.argsort(-1, descending=True)
    ids, following = order[..., :top_k], order[..., top_k : 2 * top_k]
    valid = torch.rand(3, 11, generator=generator) < 0.8
    found = assign_with_reserve(ids, following, valid, experts, 4, 2)
    wanted = by_hand(ids, following, valid, experts, 4, 2)
    for one, other in zip(found, wanted, strict=True):
        assert torch.equal(one, other)
    place, column = found
    taken = place[place < experts * 6]
    assert len(taken.unique()) == len(taken)  # nobody shares a place
    assert (column >= 0).any()


def test_an_earlier_assignment_does_not_depend_on_a_later_token():
    generator = torch.Generator().manual_seed(0)
    order = torch.rand(2, 12, 4, generator=generator).argsort(-1)
    other = order.clone()
    other[:, 7:] = order[:, 7:].flip(-1)
    found = [
        assign_with_reserve(x[..., :2], x[..., 2:], None, 4, 3, 1)
        for x in (order, other)
    ]
    for one, two in zip(*found, strict=True):
        assert torch.equal(one.view(2, 12, 2)[:, :7], two.view(2, 12, 2)[:, :7])


def test_a_reserve_is_a_share_of_the_places():
    assert [reserve_of(n, 0.25) for n in (1, 4, 40)] == [1, 1, 10]
    assert reserve_of(40, 0.0) == 0
