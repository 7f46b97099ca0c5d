"""Gradients as products of narrow matrices on two ranks of a run."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest

from low_rank_ranks import RANK, START, STEPS, compressed_rank, plan_of
from lumina.parallel.low_rank import first_factor
from lumina.plan.compressing import exchanged_bytes
from programs import conversations
from training import in_processes

pytestmark = pytest.mark.thorough


@pytest.fixture(scope="module")
def two(tmp_path_factory: Any) -> dict[int, dict[str, Any]]:
    """What each of two ranks found."""
    folder = conversations(tmp_path_factory.mktemp("chats")).folder
    return dict(in_processes(compressed_rank, 2, folder, answers=2))


def reference(two: dict[int, dict[str, Any]]) -> list[tuple[Any, Any, Any]]:
    """(gradient, error of rank 0, of rank 1) of each step and name, in float64.

    Vogels et al., 2019, Algorithms 1 and 2, in numpy, of the gradients that ranks had.
    """
    errors: list[dict[str, Any]] = [{}, {}]
    factors: dict[str, Any] = {}
    steps = []
    for one, other in zip(two[0]["steps"], two[1]["steps"], strict=True):
        found: tuple[dict[str, Any], ...] = ({}, {}, {})
        for name, shape in two[0]["shapes"].items():
            given = [ranks[0][name].astype(np.float64) for ranks in (one, other)]
            given = [g + errors[i].get(name, 0) for i, g in enumerate(given)]
            factor = factors.get(name)
            if factor is None:
                factor = first_factor(name, shape)[0].numpy().astype(np.float64)
            basis, _ = np.linalg.qr((given[0] @ factor + given[1] @ factor) / 2)
            factors[name] = (given[0].T @ basis + given[1].T @ basis) / 2
            found[0][name] = basis @ factors[name].T
            for i in range(2):
                errors[i][name] = found[1 + i][name] = given[i] - found[0][name]
        steps.append(found)
    return steps


def assert_near(found: Any, wanted: Any) -> None:
    assert np.linalg.norm(found - wanted) <= 1e-3 * np.linalg.norm(wanted)


@pytest.mark.covers("DST-08: PowerSGD rank 8", "DST-08: error feedback")
def test_gradients_and_errors_are_those_of_the_paper(two) -> None:
    """Of two micro-batches that were added up, step after step, with warm start."""
    steps = reference(two)
    assert len(steps) == STEPS - START
    assert len(two[0]["shapes"]) > 5
    for at, wanted in enumerate(steps):
        for name in two[0]["shapes"]:
            for rank in range(2):
                _, gradients, errors = two[rank]["steps"][at]
                assert_near(gradients[name], wanted[0][name])
                assert_near(errors[name], wanted[1 + rank][name])
    first = [two[rank]["steps"][0][2] for rank in range(2)]
    assert any((first[0][name] != first[1][name]).any() for name in first[0])


def test_vectors_are_averaged_and_norms_are_those_of_the_mean(two) -> None:
    for at in range(STEPS - START):
        (mine, after, _), (theirs, other, _) = (
            two[rank]["steps"][at] for rank in (0, 1)
        )
        for name in mine.keys() - two[0]["shapes"].keys():
            np.testing.assert_allclose(after[name], (mine[name] + theirs[name]) / 2)
        assert all((after[name] == other[name]).all() for name in after)
    last = two[0]["steps"][-1][1]
    norm = np.sqrt(sum((one.astype(np.float64) ** 2).sum() for one in last.values()))
    assert two[0]["norms"][-1] == pytest.approx(norm, rel=1e-5)
    weights = [two[rank]["weights"] for rank in range(2)]
    assert all((weights[0][n] == weights[1][n]).all() for n in weights[0])


def test_a_run_goes_on_to_the_bit_with_the_errors_of_each_rank(two) -> None:
    for rank in range(2):
        assert two[rank]["same"]
        own = [slot for slot in two[rank]["slots"] if slot.startswith("gradient")]
        factors = ["gradient_factors"] * (rank == 0)
        assert own == [f"gradient_error_{rank}", *factors]


def test_other_ranks_begin_with_the_mean_of_the_errors(two) -> None:
    assert two[0]["other"] and two[1]["other"]


@pytest.mark.parametrize("name", ["bf16", "routed"])
def test_half_precision_and_experts_lose_nothing(two, name) -> None:
    """The mean of what ranks had is the gradient and the mean of the errors."""
    (mine, after, left), (theirs, _, right) = (two[rank][name][0] for rank in (0, 1))
    assert left
    for one in left:
        mean = (mine[one] + theirs[one]) / 2
        np.testing.assert_allclose(
            after[one] + (left[one] + right[one]) / 2, mean, rtol=1e-3, atol=1e-5
        )


@pytest.mark.covers("MEM-20")
def test_the_plan_counts_the_bytes_that_were_seen(two) -> None:
    """A step with whole gradients, then one with factors, where they are sent."""
    whole, apart = two[0]["sizes"]
    plan = plan_of()
    none = plan.replace(gradient_compression="none")
    assert whole - apart == exchanged_bytes(none) - exchanged_bytes(plan)
    assert whole > 2 * apart and plan.gradient_compression_rank == RANK
