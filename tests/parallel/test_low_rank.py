"""Gradients as products of narrow matrices, by themselves: ranks are threads here."""

from __future__ import annotations

import threading
from concurrent.futures import ThreadPoolExecutor
from typing import Any

import pytest
import torch
from torch import Tensor, nn

from lumina.parallel.low_rank import LowRank, first_factor
from lumina.parallel.matrices import amount, as_matrices
from lumina.parallel.mesh import RankGroup

RANK = 3
SHAPES = {"wide": (24, 40), "stack": (2, 30, 20), "alike": (24, 16), "vector": (9,)}


class Thread(RankGroup):
    """A rank among threads of this process, which add up in the order of the ranks."""

    def __init__(self, size: int, rank: int, shared: dict[str, Any]) -> None:
        super().__init__(tuple(range(size)), rank)
        self.shared = shared
        self.sent: list[int] = []

    def sum_(self, tensor: Tensor) -> Tensor:
        self.sent.append(tensor.numel())
        self.shared["given"][self.rank] = tensor.clone()
        self.shared["barrier"].wait(60)
        total = sum(self.shared["given"][rank] for rank in range(self.size))
        self.shared["barrier"].wait(60)
        assert isinstance(total, Tensor)
        return tensor.copy_(total)


class Ranks:
    """Some ranks that exchange the gradients of parameters of `SHAPES`."""

    def __init__(self, size: int = 2, rank: int = RANK) -> None:
        shared = {"given": {}, "barrier": threading.Barrier(size)}
        self.groups = [Thread(size, one, shared) for one in range(size)]
        self.parameters = [
            {name: nn.Parameter(torch.zeros(shape)) for name, shape in SHAPES.items()}
            for _ in range(size)
        ]
        self.low_rank = [
            LowRank(*both, rank)
            for both in zip(self.parameters, self.groups, strict=True)
        ]

    def exchange(self, gradients: list[dict[str, Tensor]]) -> list[dict[str, Tensor]]:
        """What each rank has after an exchange of these."""
        for parameters, given in zip(self.parameters, gradients, strict=True):
            for name, one in parameters.items():
                one.grad = given[name].clone()
        with ThreadPoolExecutor(len(self.groups)) as threads:
            list(threads.map(LowRank.exchange, self.low_rank))
        return [
            {
                n: one.grad.clone()
                for n, one in parameters.items()
                if one.grad is not None
            }
            for parameters in self.parameters
        ]

    def errors(self, rank: int) -> dict[str, Tensor]:
        return {one.name: one.error.clone() for one in self.low_rank[rank].apart}

    def factors(self, rank: int) -> dict[str, Tensor]:
        return {one.name: one.right.clone() for one in self.low_rank[rank].apart}


def drawn() -> list[dict[str, Tensor]]:
    return [{n: torch.randn(shape) for n, shape in SHAPES.items()} for _ in range(2)]


def projected(matrices: list[Tensor], factor: Tensor) -> tuple[Tensor, Tensor]:
    """One step of PowerSGD in float64, by the text of Algorithm 1.

    Args:
        matrices: [n, m] of each rank, with its error.
        factor: Q of the step before.

    Returns:
        The approximation of their mean, and the next Q.
    """
    mean = torch.stack([one @ factor for one in matrices]).mean(0)
    columns: list[Tensor] = []
    for column in mean.T:  # Gram-Schmidt, twice, which is enough
        for _ in range(2):
            for before in columns:
                column = column - (before @ column) * before
        columns.append(column / column.norm())
    basis = torch.stack(columns, 1)
    found = torch.stack([one.T @ basis for one in matrices]).mean(0)
    return basis @ found.T, found


@pytest.mark.covers("DST-08: PowerSGD rank 8", "DST-08: error feedback")
@pytest.mark.parametrize("rank", [1, RANK, 8])
def test_gradients_and_errors_are_those_of_the_algorithm(rank: int) -> None:
    """With warm start, over several steps, of a stack each matrix by itself."""
    ranks = Ranks(rank=rank)
    apart = {one.name: one.shape for one in ranks.low_rank[0].apart}
    assert {1: 3, RANK: 2, 8: 0}[rank] <= len(apart)
    errors = [{n: torch.zeros(SHAPES[n]).double() for n in apart} for _ in range(2)]
    factors = {n: first_factor(n, shape).double() for n, shape in apart.items()}
    for _ in range(4):
        given = drawn()
        found = ranks.exchange(given)
        for name in SHAPES.keys() - apart.keys():
            mean = (given[0][name] + given[1][name]) / 2
            for one in found:
                torch.testing.assert_close(one[name], mean)
        for name, shape in apart.items():
            whole = [given[i][name].double() + errors[i][name] for i in range(2)]
            size = (-1, shape.rows, shape.columns)
            for at in range(shape.count):
                matrices = [one.view(size)[at] for one in whole]
                wanted, factors[name][at] = projected(matrices, factors[name][at])
                for i in range(2):
                    stacked = found[i][name].view(size)
                    torch.testing.assert_close(
                        stacked[at].double(), wanted, rtol=1e-3, atol=1e-4
                    )
            for i in range(2):
                errors[i][name] = whole[i] - found[i][name].double()
                error = ranks.errors(i)[name].double()
                torch.testing.assert_close(error, errors[i][name], rtol=1e-4, atol=1e-5)
            assert torch.equal(found[0][name], found[1][name])


def test_nothing_is_lost_over_time() -> None:
    """Gradients of all steps, and the mean error at last, are all that was given."""
    ranks = Ranks()
    total, mean = torch.zeros(24, 40), torch.zeros(24, 40)
    for _ in range(6):
        given = drawn()
        total += ranks.exchange(given)[0]["wide"]
        mean += (given[0]["wide"] + given[1]["wide"]) / 2
    rest = (ranks.errors(0)["wide"] + ranks.errors(1)["wide"]) / 2
    torch.testing.assert_close(total + rest, mean, rtol=1e-4, atol=1e-4)
    assert rest.norm() > 0.5


def test_a_mean_of_low_rank_is_found_exactly() -> None:
    """In its second step, when the factors of the first span it."""
    ranks = Ranks()
    given = drawn()
    mean = torch.randn(24, RANK) @ torch.randn(RANK, 40)
    given[1]["wide"] = 2 * mean - given[0]["wide"]
    found = ranks.exchange(given)[0]["wide"]
    torch.testing.assert_close(found, mean, rtol=1e-3, atol=1e-3)


@pytest.mark.parametrize("value", [float("nan"), float("inf")])
@pytest.mark.parametrize("name", ["wide", "vector"])
def test_a_gradient_that_is_not_finite_leaves_no_trace(name: str, value: float) -> None:
    """Every rank sees it, and the next step is as if it had not been."""
    ranks, others = Ranks(), Ranks()
    given, spoilt, then = drawn(), drawn(), drawn()
    spoilt[1][name].view(-1)[3] = value
    for one in (ranks, others):
        one.exchange(given)
    for found in ranks.exchange(spoilt):
        assert not torch.stack([one.sum() for one in found.values()]).sum().isfinite()
    assert all(
        torch.equal(ranks.errors(i)[n], others.errors(i)[n])
        for i in range(2)
        for n in ranks.errors(i)
    )
    for mine, theirs in zip(ranks.exchange(then), others.exchange(then), strict=True):
        assert all(torch.equal(mine[n], theirs[n]) for n in SHAPES)


def test_gradients_of_nothing_are_nothing() -> None:
    """As of an expert that gets no token; afterwards it learns as before."""
    ranks = Ranks()
    empty = [{n: torch.zeros(s) for n, s in SHAPES.items()} for _ in range(2)]
    for found in ranks.exchange(empty):
        assert not any(one.any() for one in found.values())
    given = drawn()
    sums = torch.zeros(24, 40)
    for _ in range(12):
        sums += ranks.exchange(given)[0]["wide"]
        given = empty
    mean_error = sum(ranks.errors(i)["wide"] for i in range(2)) / 2
    assert torch.as_tensor(mean_error).norm() < 0.5 * (sums + mean_error).norm()


@pytest.mark.covers("MEM-20")
def test_what_is_sent_is_what_is_counted() -> None:
    ranks = Ranks()
    ranks.exchange(drawn())
    counted = amount(SHAPES.values(), RANK)
    assert sum(ranks.groups[0].sent) == counted.sent
    assert counted.whole == sum(torch.Size(s).numel() for s in SHAPES.values())
    held = sum(one.error.numel() for one in ranks.low_rank[0].apart)
    assert held == counted.apart
    factors = sum(one.right.numel() for one in ranks.low_rank[0].apart)
    assert (factors, amount(SHAPES.values(), 0).sent) == (counted.right, counted.whole)


def test_what_would_not_be_half_as_much_stays_whole() -> None:
    assert as_matrices((100, 100), 25) is None
    assert as_matrices((100, 100), 24) is not None
    assert as_matrices((10_000,), 1) is None
    found = as_matrices((2560, 2560), 8)
    assert found is not None
    # 320 times less in one factor, 160 in both.
    assert found.size / found.left == 320
    assert found.size / (found.left + found.right) == 160
