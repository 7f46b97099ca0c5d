"""One rank is unlike the others: found in real runs, named, and acted upon."""

from __future__ import annotations

import sys
from pathlib import Path
from typing import Any

import pytest

from lumina.errors import LuminaError
from lumina.train.controls import control_named
from mechanisms import mechanism
from programs import tiny_plan
from training import DENSE, assert_ranks_end, column, events, rows, words
from unlike_ranks import slow_and_small, slow_network

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


@pytest.fixture(scope="module")
def far(trainings: Any) -> Path:
    """The directory of a run with a rank that sends slowly."""
    if sys.platform != "linux":
        pytest.skip("the rate of a connection can be limited on Linux")
    assert_ranks_end(trainings.ranks("slow-network", *FLAGS, before=slow_network))
    return Path(trainings.folder / "slow-network")


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


@pytest.mark.thorough
@pytest.mark.covers("ORC-38: communication delay", "ORC-35: bucket sizes")
@mechanism(
    "network of one rank slow",
    component="network",
    failure="what one rank sends leaves at a megabyte a second",
    recovery="go on",
    expected="the rank is named; another size of buckets is tried and measured",
)
def test_a_rank_that_sends_slowly_is_named_and_other_buckets_are_tried(
    slow: Path, far: Path
) -> None:
    """They do not help against a narrow link: that is measured, and they go back."""
    found = alarms(far, "slow_exchange")
    assert {one["data"].get("rank") for one in found} == {1}
    assert "what rank 1 sends to rank 0 takes" in found[0]["message"]
    assert decided(far, "slow_exchange")[0] == "smaller_buckets"
    changes = [event["data"] for event in events(far, "control")]
    sizes = [one["value"] for one in changes if one["name"] == "bucket_mb"]
    assert sizes[0] == 6.25
    outcomes = [event["message"] for event in events(far, "decision_outcome")]
    assert any("a step takes" in text and "before" in text for text in outcomes)
    [first, *_] = [e["step"] for e in events(slow, "control") if e["step"] > 30]
    assert column(far, "loss")[:first] == column(slow, "loss")[:first], "to the bit"
    figures = [row for row in rows(far) if "ranks.link_seconds" in row]
    assert [row["step"] for row in figures] == list(range(5, 41, 5))
    assert all(len(row["ranks.link_seconds"]) == 2 for row in figures)


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
