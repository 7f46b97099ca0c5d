"""One file outside the package adds a way of being parallel."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

from lumina.observe.report import write_report
from training import (
    DENSE,
    MOE,
    Trainings,
    assert_same_run,
    checkpoints,
    column,
    events,
    reached,
    start,
    wait_until,
    words,
)

TOY = str(Path(__file__).with_name("toy_parallel.py"))
TRAINED = words(
    "--precision fp32 --steps 8 --save-every-n-batches 2 --eval-every-n-batches 4 "
    "--batch-size 1 --ema-decay 0.9 --dropout 0"
)
BY_HAND = ["--plugins", TOY, "--parallel", "by_hand"]
FLAGS = [*DENSE, *TRAINED, *BY_HAND]


@pytest.fixture(scope="module")
def whole(trainings: Trainings) -> Path:
    """The run of two ranks that is never stopped; each step has two forwards."""
    return trainings.train_on_ranks("by-hand", *FLAGS)


def assert_close(found: Path, wanted: Path) -> None:
    """The same numbers, but for the order of a sum."""
    for name in ("loss", "grad_norm", "eval_loss"):
        expected = pytest.approx(column(wanted, name), rel=1e-5, abs=1e-5)
        assert column(found, name) == expected, name
    for name in ("step", "tokens", "epoch", "learning_rate"):
        assert column(found, name) == column(wanted, name), name


@pytest.mark.thorough
def test_it_is_the_run_of_ddp_and_of_one_rank(
    trainings: Trainings, whole: Path
) -> None:
    assert len(column(whole, "loss")) == 8
    assert_close(whole, trainings.train("alone", *DENSE, *TRAINED))
    ddp = trainings.train_on_ranks("ddp", *DENSE, *TRAINED, "--parallel", "ddp")
    assert_close(whole, ddp)


def stopped(trainings: Trainings, name: str) -> None:
    """A run of two ranks, one of which is killed after step 5."""
    both = trainings.ranks(name, *FLAGS, "--auto-resume", HOLD_AFTER="5")
    folder = trainings.folder / name
    assert wait_until(lambda: "step-00000004" in checkpoints(folder), both[0])
    assert wait_until(reached(folder, 5), both[0])
    both[1].kill()
    both[0].kill()  # it would wait for the other


def test_killed_and_resumed_it_is_the_run_that_never_stopped(
    trainings: Trainings, whole: Path
) -> None:
    stopped(trainings, "killed")
    found = trainings.train_on_ranks("killed", *FLAGS, "--auto-resume")
    assert_same_run(found, whole)
    assert [e["data"]["world_size"] for e in events(found, "resumed")] == [2]


@pytest.mark.thorough
def test_it_goes_on_with_another_number_of_ranks(
    trainings: Trainings, whole: Path
) -> None:
    stopped(trainings, "two-one")
    found = trainings.train("two-one", *FLAGS, "--auto-resume")
    assert_close(found, whole)
    plan = json.loads((found / "plan.json").read_text())
    assert plan["parallel"] == "none"
    assert any("by_hand has one process" in text for text in plan["warnings"])


def test_it_shows_in_the_plan_and_in_the_report(whole: Path) -> None:
    plan = json.loads((whole / "plan.json").read_text())
    assert plan["parallel"] == "by_hand"
    assert plan["reasons"]["parallel"] == "flag"
    assert "by_hand" in write_report(whole).read_text()


def said(trainings: Trainings, arguments: list[str], code: int) -> str:
    """What a command prints, in a process of its own, where it alone has the toy."""
    log = trainings.folder / f"command-{len(list(trainings.folder.iterdir()))}.log"
    running = start(arguments, log)
    assert running.wait() == code, running.output
    return " ".join(running.output.split())


def test_it_shows_in_the_list_of_features(trainings: Trainings, whole: Path) -> None:
    options = words("--preset debug --device cpu --vocab-size 300 --nproc 2")
    shown = ["features", "by_hand", "--json", *BY_HAND, *DENSE, *options]
    (row,) = json.loads(said(trainings, shown, 0))
    assert row["name"] == "by_hand" and row["state"] == "on"
    assert "by hand" in row["summary"]


def test_its_run_goes_on_with_the_file_only(trainings: Trainings, whole: Path) -> None:
    told = said(trainings, ["train", "--resume", str(whole), "--steps", "9"], 2)
    assert "by_hand" in told and f"--plugins {TOY}" in told


@pytest.mark.parametrize(
    ("flags", "says"),
    [
        ([*BY_HAND, *MOE], "parallel by_hand needs a gradient of every parameter"),
        ([*BY_HAND[:3], "by_head", *DENSE], "did you mean 'by_hand'?"),
        (
            ["--parallel", "fsdp3", *DENSE],
            "there are auto, ddp, fsdp2, independent, none",
        ),
    ],
)
def test_it_is_refused_by_name(
    trainings: Trainings, whole: Path, flags: list[str], says: str
) -> None:
    planned = words("--batch-size 1 --nproc 2 --dry-run")
    told = said(trainings, trainings.command("refused", *flags, *planned), 2)
    assert says in told
    assert "--plugins" in told or "one process" in told
