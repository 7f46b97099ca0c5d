"""A streamed run in several processes takes the rows of one process, each once."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from lumina.state.reader import latest_good, open_checkpoint
from mechanisms import mechanism
from training import (
    DENSE,
    Trainings,
    checkpoints,
    column,
    events,
    rows,
    wait_until,
    words,
)

pytestmark = pytest.mark.thorough

STREAM = [
    *DENSE,
    *words(
        "--data-loading streaming --shuffle-buffer 8 --global-batch-size 32 "
        "--batch-size 4 --precision fp32 --save-every-n-batches 2"
    ),
]
LAST = 12


def cursor_of(run: Path) -> dict[str, Any]:
    path = latest_good(run)
    assert path is not None
    with open_checkpoint(path) as reader:
        return dict(reader.meta.cursor)


def assert_same_rows(found: Path, wanted: Path) -> None:
    """Each step learned from the same tokens, and the data was read equally far."""
    for name in ("step", "tokens", "loss_tokens", "epoch", "data.documents"):
        assert column(found, name) == column(wanted, name), name
    for name in ("loss", "grad_norm", "eval_loss"):
        assert column(found, name) == pytest.approx(column(wanted, name), rel=1e-5)
    assert cursor_of(found) == cursor_of(wanted)


@pytest.fixture(scope="module")
def alone(trainings: Trainings) -> Callable[..., Path]:
    def train(name: str, *flags: str) -> Path:
        return trainings.train(name, *STREAM, *flags)

    return train


@pytest.mark.covers("DAT-32: disjoint split over workers", "DST-01: gloo")
def test_two_ranks_read_all_of_the_data_once(
    trainings: Trainings, alone: Callable[..., Path]
) -> None:
    once = words(f"--steps {10**4}")
    wanted = alone("alone-once", *once)
    found = trainings.train_on_ranks("two-once", *STREAM, *once)
    assert_same_rows(found, wanted)
    assert cursor_of(found)["over"] and 1 < len(rows(found)) < 40
    assert rows(found)[-1]["eval_loss"] == pytest.approx(
        rows(wanted)[-1]["eval_loss"], rel=1e-5
    )


@mechanism(
    "killed on two ranks, resumed on one",
    component="rank",
    failure="SIGKILL of two ranks that stream; one goes on",
    recovery="resume",
    expected="every row of the data once",
)
@pytest.mark.faults
@pytest.mark.covers("DST-19: resume on other world size")
def test_killed_on_two_ranks_it_goes_on_with_the_next_row_on_one(
    trainings: Trainings, alone: Callable[..., Path]
) -> None:
    passes = words(f"--iterate --steps {LAST}")
    wanted = alone("alone-passes", *passes)
    assert cursor_of(wanted)["pass"] >= 1
    name, resumed = "two-then-one", [*STREAM, *passes, "--auto-resume"]
    folder = trainings.folder / name
    two = trainings.ranks(name, *resumed, HOLD_AFTER="5")
    assert wait_until(lambda: len(checkpoints(folder)) >= 2, two[0])
    for rank in two:
        rank.kill()
    found = trainings.train(name, *resumed, "--num-workers", "3")
    assert [e["data"]["world_size"] for e in events(found, "resumed")] == [1]
    assert_same_rows(found, wanted)
