"""What several ranks have whole counts once in a sum over ranks."""

from __future__ import annotations

from types import SimpleNamespace
from typing import Any

import pytest
import torch

from lumina.assemble.parts_here import PartsHere
from lumina.parallel.way import Messages


class Group:
    """A rank of several, the others of which report the same figures."""

    def __init__(self, rank: int, size: int) -> None:
        self.rank, self.size = rank, size
        self.sent: list[torch.Tensor] = []

    def sum_(self, tensor: torch.Tensor) -> torch.Tensor:
        self.sent.append(tensor.clone())
        return tensor


def slot(name: str, *, divided: bool) -> Any:
    parameter = SimpleNamespace(placements=()) if divided else SimpleNamespace()
    return SimpleNamespace(name=name, parameter=parameter)


SLOTS = [slot("norm", divided=False), slot("matrix", divided=True)]


def parts(tokens: Group, expert: Group, *, divided: bool, below: int = 0) -> PartsHere:
    place = SimpleNamespace(messages=Messages(persistent=below))
    program: Any = SimpleNamespace(
        mesh=SimpleNamespace(tokens=tokens, expert=expert),
        divided=divided,
        device=torch.device("cpu"),
        way=SimpleNamespace(place=place),
    )
    return PartsHere(program)


def added(these: PartsHere) -> list[list[float]]:
    return these.add(torch.tensor([[3.0, 5.0], [7.0, 9.0]]), SLOTS).tolist()


@pytest.mark.parametrize("rank", [0, 1])
def test_small_parameters_that_stay_whole_count_on_the_first_rank(rank: int) -> None:
    tokens, alone = Group(rank, 2), Group(0, 1)
    these = parts(tokens, alone, divided=True, below=100)
    assert these.over is tokens
    assert added(these) == [[3.0 * (rank == 0), 5.0], [7.0 * (rank == 0), 9.0]]
    assert [these.count(one) for one in SLOTS] == [rank == 0, True]
    assert len(tokens.sent) == 1 and not alone.sent


def test_where_none_stays_whole_every_part_counts() -> None:
    """As under zero1, whose parts carry no sign that they are parts."""
    these = parts(Group(1, 2), Group(0, 1), divided=True)
    assert these.counted(SLOTS) is None and added(these) == [[3.0, 5.0], [7.0, 9.0]]


@pytest.mark.parametrize("rank", [0, 1])
def test_beside_divided_experts_all_else_counts_on_the_first_rank(rank: int) -> None:
    tokens, expert = Group(1, 4), Group(rank, 2)
    these = parts(tokens, expert, divided=False)
    assert these.over is expert and not tokens.sent
    assert added(these) == [[3.0 * (rank == 0), 5.0], [7.0 * (rank == 0), 9.0]]
    # Another selection of parameters has other figures that count.
    turned = these.counted(SLOTS[::-1])
    assert turned is None if rank == 0 else turned.tolist() == [1.0, 0.0]


def test_one_rank_has_all_of_everything() -> None:
    these = parts(Group(0, 1), Group(0, 1), divided=False)
    assert these.over is None and added(these) == [[3.0, 5.0], [7.0, 9.0]]
