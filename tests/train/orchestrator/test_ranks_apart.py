"""Ranks that are unlike, in made rows: what is found, named, done, and left alone."""

from __future__ import annotations

import random
from collections.abc import Callable
from typing import Any

import pytest

from lumina.plan.measures import ranks_every
from lumina.train.health.watching import Finding, Watching
from lumina.train.orchestrator.actions import ACTIONS
from lumina.train.orchestrator.figures import compared
from orchestrator_runs import COOLDOWN, Made, falling
from programs import tiny_plan

STEPS, EVERY, STEP = 200, 5, 0.1
GIB = 2.0**30

Row = dict[str, Any]
Figures = dict[str, list[float]]


def even(size: int, draw: random.Random) -> Figures:
    """The figures of ranks that are alike, but for chance."""

    def some(level: float) -> list[float]:
        return [level * draw.uniform(0.7, 1.3) for _ in range(size)]

    return {
        "wait_seconds": some(0.001),
        "product_seconds": some(0.002),
        "link_seconds": some(0.0005),
        "exchange_seconds": some(0.004),
        "memory_bytes": some(4 * GIB),
        "memory_limit_bytes": [16 * GIB] * size,
    }


def found(
    disturb: Callable[[Figures], None] = lambda figures: None,
    size: int = 4,
    seconds: float = STEP,
    only: Callable[[int], bool] = lambda step: True,
) -> list[Finding]:
    """What the checks that all ranks see alike find in a run of so many ranks."""
    draw = random.Random(size)
    watching = Watching.of(tiny_plan(steps=STEPS), ranks_alike=True)
    names = {"unequal_ranks", "slow_exchange", "memory_imbalance"}
    findings: list[Finding] = []
    for step in range(1, STEPS + 1):
        row: Row = {"step": step, "tokens": 512 * step, "loss": 2.0}
        row["agreed_step_seconds"] = seconds * draw.uniform(0.8, 1.2)
        if step % EVERY == 0:
            figures = even(size, draw)
            if only(step):
                disturb(figures)
            row |= {f"ranks.{name}": values for name, values in figures.items()}
        findings += watching.see(row)
    return [one for one in findings if one.anomaly in names]


@pytest.mark.parametrize("size", [2, 3, 8])
def test_ranks_that_are_alike_raise_nothing(size: int) -> None:
    assert not found(size=size)


def slow_rank(figures: Figures) -> None:
    figures["wait_seconds"] = [0.04, 0.042, 0.0004, 0.039]


def slow_device(figures: Figures) -> None:
    slow_rank(figures)
    figures["product_seconds"][2] = 0.009


def slow_link(figures: Figures) -> None:
    figures["exchange_seconds"] = [0.06] * 4
    figures["link_seconds"][1] = 0.02


def slow_network(figures: Figures) -> None:
    figures["exchange_seconds"] = [0.06, 0.06, 0.01, 0.06]  # rank 2 came late
    figures["link_seconds"] = [0.02, 0.021, 0.019, 0.02]


def small_rank(figures: Figures) -> None:
    figures["memory_limit_bytes"][3] = 4.4 * GIB
    figures["memory_bytes"][3] = 4 * GIB


def greedy_rank(figures: Figures) -> None:
    figures["memory_bytes"][3] = 15 * GIB


UNLIKE = {
    "a slow rank": (
        slow_rank, "unequal_ranks", 2,
        ("wait for rank 2 for", "it has more to do", "No setting moves work"),
    ),
    "a slow device": (
        slow_device, "unequal_ranks", 2, ("as long as the others, so its device is",)
    ),
    "a slow link": (
        slow_link, "slow_exchange", 1,
        ("takes 60 ms", "what rank 1 sends to rank 2", "the network of rank 1"),
    ),
    "a slow network": (
        slow_network, "slow_exchange", None, ("all links are about alike (20",)
    ),
    "a rank with less memory": (
        small_rank, "memory_imbalance", 3,
        ("rank 3 has 90.9%", "it has 4.4 GiB, and the others 16"),
    ),
    "a rank that uses more": (
        greedy_rank, "memory_imbalance", 3, ("rank 3 has 93.8%", "it uses 15")
    ),
}  # fmt: skip


@pytest.mark.covers("ORC-38: communication delay")
@pytest.mark.parametrize("name", UNLIKE)
def test_what_is_unlike_is_found_and_named(name: str) -> None:
    disturb, anomaly, rank, texts = UNLIKE[name]
    findings = found(disturb)
    assert {one.anomaly for one in findings} == {anomaly}
    assert {one.evidence.get("rank") for one in findings} == {rank}
    assert all(text in findings[-1].text for text in texts), findings[-1].text
    needed = 3 if anomaly == "memory_imbalance" else 5
    assert findings[0].step == (1 + needed) * EVERY, "as many rows behind the first"
    assert findings[-1].confidence >= 0.75


def test_one_bad_row_is_no_trouble_nor_is_a_little_of_it() -> None:
    assert not found(slow_rank, only=lambda step: step % 20 == 0)
    assert not found(slow_link, only=lambda step: step % 20 == 0)
    assert not found(slow_rank, seconds=0.4), "a tenth of a step"
    assert not found(slow_link, seconds=0.4)


def test_another_number_of_ranks_begins_anew() -> None:
    """A run that goes on with fewer processes compares no lists of unlike lengths."""
    watching = Watching.of(tiny_plan(steps=STEPS), ranks_alike=True)
    draw = random.Random(0)
    for step in range(1, 101):
        row: Row = {"step": step, "loss": 2.0, "agreed_step_seconds": STEP}
        figures = even(4 if step < 50 else 2, draw)
        row |= {f"ranks.{name}": values for name, values in figures.items()}
        names = {one.anomaly for one in watching.see(row)}
        assert not names & {"unequal_ranks", "slow_exchange", "memory_imbalance"}


def test_the_ranks_are_compared_now_and_then() -> None:
    assert [ranks_every(steps) for steps in (10, 1000, 10**6)] == [5, 20, 100]


def buckets(after: Callable[[int], float], steps: int = 100) -> Made:
    """A run of which exchanges are slow; a step takes `after(change)` seconds."""
    made = Made(steps=600, parameters=100 * 2**20, world_size=2, parallel="ddp")
    made.values["bucket_mb"] = 25.0
    made.seconds = lambda: after(made.values["bucket_mb"])
    made.run(30, falling)
    return made.run(steps, falling, "slow_exchange")


@pytest.mark.covers("ORC-35: bucket sizes")
def test_buckets_that_help_are_kept_and_the_time_is_measured() -> None:
    made = buckets(lambda size: 0.2 if size < 100 else 0.1, COOLDOWN + 11)
    changes = [one for one in made.decided() if one[1] != "nothing"]
    assert changes == [(31, "larger_buckets")]
    assert made.values["bucket_mb"] == 100.0
    outcomes = [data for _, kind, data in made.told if kind == "decision_outcome"]
    outcome = outcomes[0]
    assert outcome["verdict"] == "better"
    assert (outcome["measured"], outcome["expected"]) == (0.1, 0.2)
    assert "a step takes 100 ms, and took 200 ms before" in outcome["text"]


def test_buckets_that_do_not_help_are_put_back() -> None:
    """Then smaller ones are tried, which are put back, too; after that nothing is."""
    made = buckets(lambda size: 0.2)
    actions = [action for _, action in made.decided() if action != "nothing"]
    assert actions == ["larger_buckets", "undo", "smaller_buckets", "undo"]
    assert made.values["bucket_mb"] == 25.0
    assert [verdict for _, verdict in made.outcomes()][:2] == ["same", "same"]
    worse = buckets(lambda size: 0.2 if size == 25.0 else 0.4)
    assert [verdict for _, verdict in worse.outcomes()][:2] == ["worse", "worse"]


def test_buckets_stay_within_bounds() -> None:
    plan = tiny_plan(world_size=2, parallel="ddp", parameters=100 * 2**20)
    finding = Finding("slow_exchange", 5, "warning", 0.9, "it is a test")

    def proposed(action: str, size: float, plan: Any = plan) -> Any:
        made = ACTIONS[action].proposal(finding, lambda _: size, plan)
        return None if made is None else made.value

    assert proposed("larger_buckets", 25.0) == 100.0
    assert proposed("larger_buckets", 400.0) is None, "all gradients are in one"
    assert proposed("larger_buckets", 1.0, plan.replace(parameters=1000)) is None
    assert proposed("smaller_buckets", 1.9) is None
    assert proposed("smaller_buckets", 25.0) == 6.25
    six = plan.replace(parameters=6 * 2**18)  # 6 MiB of gradients
    assert proposed("smaller_buckets", 25.0, six) is None, "one bucket either way"
    assert proposed("smaller_buckets", 24.0, six) is None
    assert proposed("smaller_buckets", 23.0, six) == 5.75


def test_what_memory_takes_is_no_reason_to_undo() -> None:
    """It fills up for other reasons, too; less of it is what a change was for."""
    before, noise = [0.9, 0.91, 0.9, 0.9], [0.0, 0.001, 0.0, 0.001]
    less = compared("memory", before, [0.7 + x for x in noise])
    more = compared("memory", before, [0.97 + x for x in noise])
    assert less is not None and less.verdict == "better" and "70." in less.text
    assert more is not None and more.verdict == "same"
    assert compared("memory", before, [0.7]) is None
    slower = compared("seconds", 3 * before, 3 * [0.97 + x for x in noise])
    assert slower is not None and slower.verdict == "worse"
