"""Nothing is decided because a machine had other work for a moment."""

from __future__ import annotations

import random
from typing import Any

import pytest

from lumina.train.health.watching import Watching
from lumina.train.orchestrator.figures import compared
from lumina.train.rules.orchestrator import Orchestrator
from orchestrator_runs import falling
from programs import tiny_plan
from uneven_times import stalled

STEPS, EVERY, STEP, RANKS = 300, 5, 0.1, 2
GIB = 2.0**30
RUNS = range(10)

Row = dict[str, Any]


def rows(seed: int, often: float = 0.05) -> list[Row]:
    """A run that learns, of which every time is far too long now and then."""
    draw = random.Random(seed)

    def some(usual: float) -> list[float]:
        return [stalled(draw, usual, often) for _ in range(RANKS)]

    made = []
    for step in range(1, STEPS + 1):
        wait, work = (stalled(draw, usual, often) for usual in (0.003, STEP))
        row: Row = {
            "step": step,
            "tokens": 512 * step,
            "loss": falling(step),
            "grad_norm": draw.uniform(0.4, 0.6),
            "learning_rate": 1e-3,
            "agreed_memory_share": draw.uniform(0.3, 0.31),
            "agreed_step_seconds": work + wait,
            "step_seconds": work + wait,
            "data_wait_seconds": wait,
        }
        if step % EVERY == 0:
            row |= {
                "ranks.wait_seconds": some(0.004),
                "ranks.product_seconds": some(0.002),
                "ranks.link_seconds": some(0.0005),
                "ranks.exchange_seconds": some(0.01),
                "ranks.memory_bytes": [4 * GIB] * RANKS,
                "ranks.memory_limit_bytes": [16 * GIB] * RANKS,
            }
        made.append(row)
    return made


@pytest.mark.parametrize("often", [0.05, 0.15])
def test_no_check_takes_stalls_for_trouble(often: float) -> None:
    plan = tiny_plan(steps=STEPS, world_size=RANKS, parallel="ddp")
    for seed in RUNS:
        watching = Watching.of(plan)
        found = [one for row in rows(seed, often) for one in watching.see(row)]
        times = {"performance", "data_wait", "unequal_ranks", "slow_exchange"}
        assert not [one.text for one in found if one.anomaly in times]


def test_the_orchestrator_decides_nothing() -> None:
    """Neither to change something nor to leave it alone, and nothing is asked for."""
    plan = tiny_plan(
        steps=STEPS,
        world_size=RANKS,
        parallel="ddp",
        parameters=100 * 2**20,
        max_grad_norm=1.0,
        orchestrator={"mode": "on", "cooldown_steps": 5},
    )
    for seed in RUNS:
        rule = Orchestrator.made_for(plan)
        for row in rows(seed):
            rule.see(row)
            assert rule.propose(row["step"], lambda name: 25.0) is None
            assert not rule.notes()


def test_what_is_slow_all_the_time_is_found_between_stalls() -> None:
    plan = tiny_plan(steps=STEPS, world_size=RANKS, parallel="ddp")
    watching, found = Watching.of(plan), set()
    for row in rows(0):
        for key in ("ranks.exchange_seconds", "data_wait_seconds"):
            late = row.get(key, ())
            row |= {key: [10 * x for x in late]} if isinstance(late, list) else {}
        if row["step"] > STEPS // 2:
            row["data_wait_seconds"] += STEP
            row["step_seconds"] += STEP
            row["agreed_step_seconds"] *= 3
        found |= {one.anomaly for one in watching.see(row)}
    assert {"slow_exchange", "performance", "data_wait"} <= found


@pytest.mark.parametrize("often", [0.05, 0.2])
def test_a_change_that_does_nothing_makes_no_difference(often: float) -> None:
    """Beside stalls, and on a machine that is half as fast for some steps in a row."""
    for seed in range(100):
        draw = random.Random(seed)
        after = [stalled(draw, STEP, often) for _ in range(10)]
        before = [stalled(draw, STEP, often) for _ in range(20)]
        found = compared("seconds", before, after)
        assert found is not None and found.verdict == "same", found


def test_ten_steps_are_no_ten_measurements_where_a_machine_is_slow_for_some() -> None:
    """Half as fast for a stretch: what another program did, and no effect of ours."""
    draw = random.Random(1)

    def some(*stretches: float) -> list[float]:
        return [
            STEP * x * draw.uniform(0.98, 1.02) for x in stretches for _ in range(5)
        ]

    slow = compared("seconds", some(1, 2, 2, 1), some(1, 1))
    assert slow is not None and slow.verdict == "same", slow.text
    real = compared("seconds", some(2, 2, 2, 2), some(1, 1))
    assert real is not None and real.verdict == "better", real.text
    assert compared("seconds", some(2, 2, 2, 2), some(1)) is None, "five are too few"
