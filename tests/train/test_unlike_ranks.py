"""One rank is unlike the others: found in real runs, named, and acted upon."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest

from lumina.errors import LuminaError
from lumina.train.controls import control_named
from mechanisms import mechanism
from programs import tiny_plan
from training import DENSE, assert_ranks_end, events, words
from unlike_ranks import slow_and_small

FLAGS = [
    *DENSE,
    *words(
        "--precision fp32 --steps 40 --batch-size 2 --parallel ddp --adaptive on "
        "--adaptive-cooldown-steps 2 --experience off"
    ),
]


def alarms(run: Path, check: str) -> list[dict[str, Any]]:
    """The events of a check."""
    told = events(run, "training_health")
    return [one for one in told if one["data"].get("check") == check]


def decided(run: Path, anomaly: str) -> list[str]:
    """The changes that were made for an anomaly."""
    made = [event["data"] for event in events(run, "decision")]
    return [one["action"] for one in made if one["anomaly"] == anomaly and one["level"]]


@pytest.fixture(scope="module")
def slow(trainings: Any) -> Path:
    """The directory of a run with a rank that is slow and has little memory."""
    flags = [*FLAGS, *words("--adaptive-without larger_buckets smaller_buckets")]
    assert_ranks_end(trainings.ranks("slow-rank", *flags, before=slow_and_small))
    return Path(trainings.folder / "slow-rank")


@pytest.mark.thorough
@pytest.mark.covers("ORC-38: utilisation divergence")
@mechanism(
    "rank that computes slowly",
    component="rank",
    failure="one rank takes twenty times as long for its forward",
    recovery="go on",
    expected="the rank is named, with the share of a step that the others wait",
    real=False,
)
def test_a_rank_that_the_others_wait_for_is_named(slow: Path) -> None:
    found = alarms(slow, "unequal_ranks")
    assert {one["data"]["rank"] for one in found} == {1}
    assert "the other processes wait for rank 1 for" in found[0]["message"]
    assert "No setting moves work from one process to another" in found[0]["message"]
    assert found[0]["data"]["lost"] > 0.2
    assert not decided(slow, "unequal_ranks")


@pytest.mark.thorough
@pytest.mark.covers("ORC-38: memory imbalance")
def test_a_rank_with_less_memory_is_named_and_forwards_become_smaller(
    slow: Path,
) -> None:
    """What a change did to the memory of all is measured; losses stay the same."""
    found = alarms(slow, "memory_imbalance")
    assert {one["data"]["rank"] for one in found} == {1}
    assert "rank 1 has 95" in found[0]["message"]
    assert "so the smallest memory decides" in found[0]["message"]
    assert decided(slow, "memory_imbalance")[:2] == [
        "clear_cache",
        "smaller_micro_batch",
    ]
    outcomes = [event["message"] for event in events(slow, "decision_outcome")]
    assert any("of the memory is in use" in text for text in outcomes)


def test_only_ddp_has_buckets() -> None:
    """FSDP2 exchanges block by block, and one process nothing."""
    control = control_named("bucket_mb")
    ddp = tiny_plan(world_size=2, parallel="ddp")
    control.check_plan(ddp)
    assert control.edit(ddp, 4).bucket_mb == 4.0
    for parallel in ("none", "fsdp2"):
        with pytest.raises(LuminaError, match="not exchanged in buckets"):
            control.check_plan(tiny_plan(parallel=parallel))
    for value in (0, -1, True, "4", 2000):
        with pytest.raises(LuminaError):
            control.check_value(value)
