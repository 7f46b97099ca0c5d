"""Means of the gradients that no wrapper averages: of experts and of small weights."""

from __future__ import annotations

from types import SimpleNamespace
from typing import Any

import pytest
import torch
from torch import Tensor, nn

from lumina.parallel.experts import average_gradients
from lumina.parallel.sharding import average_whole, persistent
from lumina.parallel.way import Messages
from lumina.parallel.ways.ddp import Replicated


class Group:
    """A rank beside others of which each brings the same known numbers.

    Args:
        size: ranks, this one included.
        brought: what each of the others has for a number of this one.
    """

    def __init__(self, size: int, brought: float) -> None:
        self.size, self.brought = size, brought
        self.messages = 0

    def sum_(self, tensor: Tensor) -> Tensor:
        self.messages += 1
        return tensor.add_(self.brought * (self.size - 1))


def test_gradients_of_experts_are_means_over_all_tokens() -> None:
    """Two ranks of eight hold the same experts; the sums of four ranks are there."""
    grad = torch.tensor([[8.0, 16.0]])
    trained: Any = SimpleNamespace(grad=SimpleNamespace(to_local=lambda: grad))
    unused: Any = SimpleNamespace(grad=None)
    mesh: Any = SimpleNamespace(tokens=Group(8, 100.0), same_experts=Group(2, 5.0))
    average_gradients([trained, unused], mesh)
    assert grad.tolist() == [[1.0 + 5.0, 2.0 + 5.0]]
    assert (mesh.tokens.messages, mesh.same_experts.messages) == (0, 1)


def place_of(below: int) -> Any:
    """Parameters of 2, 4 and 6 elements that train, a frozen one, and a table."""
    network = nn.ParameterDict(
        {
            "two": nn.Parameter(torch.zeros(2)),
            "four": nn.Parameter(torch.zeros(2, 2)),
            "six": nn.Parameter(torch.zeros(6)),
            "frozen": nn.Parameter(torch.zeros(3), requires_grad=False),
            "table": nn.Parameter(torch.zeros(1)),
        }
    )
    return SimpleNamespace(
        network=network,
        whole=frozenset({network["table"]}),
        messages=Messages(persistent=below),
        mesh=SimpleNamespace(tokens=Group(2, 3.0)),
    )


@pytest.mark.parametrize(
    ("below", "small"),
    [
        (0, set()),
        (4, {"two", "frozen"}),
        (5, {"two", "four", "frozen"}),
        (10**9, {"two", "four", "six", "frozen"}),
    ],
)
def test_parameters_of_fewer_elements_stay_whole(below: int, small: set[str]) -> None:
    place = place_of(below)
    these = {id(one) for one in persistent(place)}
    assert {n for n, one in place.network.items() if id(one) in these} == small


def test_gradients_of_small_parameters_become_means_in_one_message() -> None:
    """Also of one that no token of this rank has used; others are left alone."""
    place = place_of(5)
    network = place.network
    network["two"].grad = torch.tensor([1.0, 5.0])
    network["six"].grad = torch.full((6,), 7.0)
    average_whole(place)
    assert network["two"].grad.tolist() == [2.0, 4.0]
    assert network["four"].grad.tolist() == [[1.5, 1.5], [1.5, 1.5]]
    assert network["six"].grad.tolist() == [7.0] * 6
    assert network["frozen"].grad is None and network["table"].grad is None
    assert place.mesh.tokens.messages == 1


@pytest.mark.parametrize(
    ("step", "begun", "learns", "apart"),
    [
        (4, False, True, False),
        (5, False, True, True),
        (5, False, False, False),
        (4, True, True, True),
    ],
)
def test_gradients_are_taken_apart_from_the_step_that_was_asked_for(
    step: int, begun: bool, learns: bool, apart: bool
) -> None:
    """And in a run that goes on also before it, where it has begun already."""
    place: Any = SimpleNamespace(messages=Messages(low_rank=2, low_rank_from=5))
    way: Any = Replicated(place)
    way._averaging = SimpleNamespace(elsewhere=None)
    way.low_rank = SimpleNamespace(begun=begun)
    way.begin(step, learns)
    assert way._averaging.elsewhere is apart
