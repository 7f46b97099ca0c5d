"""Which start values earlier runs speak for, and from how much evidence on."""

from __future__ import annotations

from typing import Any

import pytest

from lumina.state.experience.records import RunRecord
from lumina.state.experience.strategies import start_for, strategies
from remembered import KIND, a_record


def tried(number: int, rate: float, loss: float | None, **changes: Any) -> RunRecord:
    """A run with a learning rate, and the held-out loss that it reached."""
    options = a_record().options | {"learning_rate": rate}
    return a_record(number, options=options, eval_loss=loss, **changes)


def grid(*rates: float, each: int = 3) -> list[RunRecord]:
    """Runs of which a higher rate did better; several with every rate."""
    return [
        tried(10 * place + n, rate, 4 - 100 * rate)
        for place, rate in enumerate(rates)
        for n in range(each)
    ]


@pytest.mark.covers("ORC-18: up to 20 best strategies with confidence (example 0.85)")
def test_the_best_are_kept_with_a_confidence() -> None:
    found = strategies(grid(1e-3, 2e-3, 3e-3))
    assert [one.learning_rate for one in found] == [3e-3, 2e-3, 1e-3]
    # Each of three runs beats all, half, and none of those with another rate.
    assert [one.confidence for one in found] == [5.5 / 8, 4 / 8, 2.5 / 8]
    many = grid(*(1e-4 * n for n in range(1, 31)), each=1)
    assert len(strategies(many)) == 20


@pytest.mark.covers("ORC-19", "ORC-18: learns schedules")
def test_start_values_need_evidence() -> None:
    few = grid(1e-3, 2e-3, each=2)
    assert start_for(KIND, few).strategy is None
    assert "4 runs" in start_for(KIND, few).why
    enough = start_for(KIND, grid(1e-3, 2e-3))
    assert enough.strategy is not None
    assert enough.strategy.learning_rate == 2e-3
    assert all(name in enough.why for name in ("run-10", "run-11", "run-12"))
    # One run alone may be luck, however many it beats.
    alone = [*grid(1e-3, each=6), tried(99, 2e-3, 1.0)]
    assert start_for(KIND, alone).strategy is None
    assert start_for("moe:1B:lion", grid(1e-3, 2e-3)).strategy is None


def test_only_alike_runs_are_compared() -> None:
    others = [
        {"data": "ff" * 8},
        {"planned_steps": 400},
        {"parameters": 2_000_000},
        {"status": "interrupted"},
        {"data": ""},
    ]
    for other in others:
        runs = [tried(n, 1e-3, 3.0) for n in range(3)]
        runs += [tried(n + 5, 2e-3, 2.0, **other) for n in range(3)]
        assert strategies(runs) == []


def test_a_run_that_diverged_speaks_against_its_rate() -> None:
    failed = {"status": "failed", "failures": {"run_failed_e301": 1}}
    runs = [tried(n, 1e-3, 3.0) for n in range(3)]
    runs += [tried(n + 5, 2e-2, None, **failed) for n in range(3)]
    best, worst = strategies(runs)
    assert (best.learning_rate, best.score) == (1e-3, 3.0)
    assert (worst.learning_rate, worst.score) == (2e-2, 0.0)
    out_of_memory = failed | {"failures": {"run_failed_e201": 1}}
    runs[3:] = [tried(n + 5, 2e-2, None, **out_of_memory) for n in range(3)]
    assert strategies(runs) == []


@pytest.mark.covers("ORC-18: dataset strategies")
def test_runs_on_the_same_data_are_asked_first() -> None:
    """The rate that is best on other data is the worst on this."""
    mine = [tried(n, rate, 2 + 100 * rate) for n, rate in enumerate([1e-3, 3e-3] * 4)]
    others = [
        tried(20 + n, rate, 4 - 100 * rate, data="ff" * 8)
        for n, rate in enumerate([1e-3, 3e-3] * 8)
    ]
    every = mine + others
    here = start_for(KIND, every, mine[0].data)
    assert here.strategy is not None and here.strategy.learning_rate == 1e-3
    assert here.compared == 8 and f"{KIND} on this data" in here.why
    for data in ("", "ee" * 8):  # nothing is known of that data
        start = start_for(KIND, every, data)
        assert start.strategy is not None and start.strategy.learning_rate == 3e-3
        assert start.compared == 24 and "this data" not in start.why
    few = start_for(KIND, mine[:4] + others, mine[0].data)
    assert few.strategy is not None and few.strategy.learning_rate == 3e-3
