"""Signals while held-out data is evaluated: the evaluation is left, nothing is lost."""

from __future__ import annotations

from pathlib import Path

import pytest

from lumina.state.reader import latest_good, open_checkpoint
from mechanisms import mechanism
from training import (
    DENSE,
    INTERRUPT,
    TERMINATE,
    assert_same_run,
    checkpoints,
    events,
    rows,
    wait_until,
    words,
)

FLAGS = [
    *DENSE,
    *words("--precision fp32 --steps 4 --ema-decay 0.9 --eval-every-n-batches 2"),
    *words("--early-stopping-patience 9"),
]


class Endless:
    """A training whose evaluation number `number` never ends.

    Attributes:
        running: its ranks.
        folder: its run directory.
    """

    def __init__(self, trainings, name, *flags, number=1, ranks=1):
        self.folder = trainings.folder / name
        self._mark = trainings.folder / f"{name}.evaluating."
        told = {"ENDLESS_FROM": str(number), "EVALUATING": str(self._mark)}
        if ranks > 1:
            self.running = trainings.ranks(name, *flags, world_size=ranks, **told)
        else:
            self.running = [trainings.start(name, *flags, **told)]
        wait_until(self._evaluating)

    def _evaluating(self):
        assert all(rank.alive for rank in self.running), self.output
        marks = [Path(f"{self._mark}{rank}") for rank in range(len(self.running))]
        return all(mark.exists() for mark in marks)

    @property
    def output(self):
        return "".join(rank.output for rank in self.running)

    def codes(self):
        """The exit codes of all ranks, though the evaluation under way has no end."""
        return [rank.wait() for rank in self.running]


def assert_stopped_unjudged(run, step):
    """It ended at `step` with a checkpoint, and as if nothing had been evaluated."""
    assert [row["step"] for row in rows(run)] == list(range(1, step + 1))
    assert "eval_loss" not in rows(run)[-1]
    assert checkpoints(run) == [f"step-{step:08d}"]
    assert events(run, "run_interrupted") and not events(run, "run_finished")
    with open_checkpoint(latest_good(run)) as reader:
        extra = reader.meta.extra
    assert (extra["best_loss"], extra["worse_evaluations"]) == (None, 0)


@pytest.fixture(scope="module")
def whole(trainings):
    return trainings.train("whole", *FLAGS)


def extra_of(run):
    """What the last checkpoint holds beside tensors, but for times and memory used."""
    with open_checkpoint(latest_good(run)) as reader:
        extra = reader.meta.extra
    health = extra["rules"]["rules"]["training_health"]
    memories = health["memories"]
    assert memories.pop("performance") and memories.pop("memory_leak")
    assert memories.pop("memory_risk") and health["outlook"].pop("used")
    assert memories.pop("data_wait") and memories.pop("resume_discontinuity")
    for name in ("unequal_ranks", "slow_exchange", "memory_imbalance"):
        assert memories[name].pop("seconds")
    return extra


@mechanism(
    "ended in an evaluation",
    component="process",
    failure="SIGINT or SIGTERM while held-out data is evaluated",
    recovery="save and end",
    expected="the evaluation is left and made up for by the resume; figures as "
    "undisturbed",
)
@pytest.mark.faults
@pytest.mark.covers("CKP-14")
@pytest.mark.parametrize(
    ("number", "code"), [(INTERRUPT, 130), (TERMINATE, 143)], ids=["ctrl-c", "sigterm"]
)
def test_a_signal_ends_an_evaluation_which_a_resume_makes_up_for(
    trainings, whole, number, code
):
    name = f"stopped-{code}"
    run = Endless(trainings, name, *FLAGS)
    run.running[0].send(number)
    assert run.codes() == [code], run.output
    assert_stopped_unjudged(run.folder, 2)
    assert "Traceback" not in run.output
    assert_same_run(trainings.train(name, *FLAGS, "--auto-resume"), whole)
    assert extra_of(run.folder) == extra_of(whole)


@pytest.mark.faults
def test_the_last_evaluation_is_made_up_for(trainings):
    flags = [*DENSE, *words("--precision fp32 --steps 3")]
    run = Endless(trainings, "last", *flags)
    run.running[0].send(TERMINATE)
    assert run.codes() == [143], run.output
    assert_stopped_unjudged(run.folder, 3)
    trainings.train("last", *flags, "--auto-resume")
    assert "eval_loss" in rows(run.folder)[-1]
    assert events(run.folder, "run_finished")


@mechanism(
    "one rank is signalled in an evaluation",
    component="rank",
    failure="SIGTERM of the second rank alone, in an evaluation",
    recovery="save and end",
    expected="both ranks leave it at one place and save",
)
@pytest.mark.faults
def test_ranks_leave_an_evaluation_together(trainings):
    """Only the second rank is told; the first must not wait for it in a forward."""
    run = Endless(trainings, "two", *FLAGS, "--batch-size", "2", ranks=2)
    run.running[1].send(TERMINATE)
    assert run.codes() == [143, 143], run.output
    assert_stopped_unjudged(run.folder, 2)


@pytest.mark.faults
def test_a_signal_ends_the_comparison_of_routing_modes(trainings):
    flags = [*DENSE, *words("--use-mod --precision fp32 --steps 3")]
    run = Endless(trainings, "modes", *flags, number=2)
    run.running[0].send(TERMINATE)
    assert run.codes() == [143], run.output
    assert "eval_loss" in rows(run.folder)[-1]
    assert checkpoints(run.folder) == ["step-00000003"]
    assert events(run.folder, "run_interrupted")
    assert not events(run.folder, "routing_modes")
    # The rest of the end comes with a resume.
    trainings.train("modes", *flags, "--auto-resume")
    assert events(run.folder, "routing_modes") and events(run.folder, "run_finished")
