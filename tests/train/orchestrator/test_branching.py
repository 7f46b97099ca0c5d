"""A decision that is measured against the run without it."""

from __future__ import annotations

import json

import pytest

from lumina.cli.main import main
from lumina.errors import LuminaError
from lumina.train.controls import control_named
from lumina.train.orchestrator.trial import Trial
from option_effects.adaptive import alarm, decisions
from programs import tiny_plan
from tiny_runs import Run, Runs

STEPS, FOUND, COOLDOWN = 40, 12, 3
BASE = {"steps": STEPS, "learning_rate": 1e-3, "snapshot_every": 5}
ON = {"adaptive": "on", "adaptive_cooldown_steps": COOLDOWN}


@pytest.fixture(scope="module")
def runs(tmp_path_factory: pytest.TempPathFactory) -> Runs:
    """For all tests of this file, so that they share runs."""
    with pytest.MonkeyPatch.context() as patch:
        return Runs(tmp_path_factory.mktemp("runs"), patch)


@pytest.fixture(scope="module")
def plain(runs: Runs) -> Run:
    return runs.train(**BASE)


@pytest.fixture(scope="module")
def measured(runs: Runs) -> Run:
    """Half the rate in the middle of the run, once it was seen without that."""
    with alarm("divergence", FOUND):
        return runs.train(**BASE, **ON, adaptive_branches=1)


def outcomes(run: Run) -> list[dict]:
    return [e["data"] for e in run.events if e["kind"] == "decision_outcome"]


def undone(run: Run) -> list[dict]:
    (file,) = (run.folder / "undone").glob("1/*.jsonl")
    return [json.loads(line) for line in file.read_text().splitlines()]


@pytest.mark.covers("ORC-30")
def test_the_run_goes_on_without_the_change_first(plain: Run, measured: Run) -> None:
    """The branch is the run to the bit, and so is what comes before it."""
    made = decisions(measured)[0]
    (back,) = [e for e in measured.events if e["kind"] == "rolled_back"]
    at, since = back["step"], back["data"]["from_step"]
    assert made["action"] == "lower_rate" and at < made["step"] <= at + 2
    assert not back["data"]["skip_data"]
    branch = {row["step"]: row["loss"] for row in undone(measured)}
    assert list(branch) == list(range(at + 1, since + 1))
    expected = plain.column("loss")
    assert all(expected[step - 1] == loss for step, loss in branch.items())
    assert measured.column("loss")[: at + 2] == expected[: at + 2]
    assert measured.column("loss")[at + 3 :] != expected[at + 3 :]
    assert measured.column("step") == list(range(1, STEPS + 1))
    assert measured.column("rollbacks_performed")[-1] == 0


def test_the_outcome_is_that_of_the_same_rows(plain: Run, measured: Run) -> None:
    outcome = outcomes(measured)[0]
    assert "measured on the same rows" in outcome["text"]
    made = decisions(measured)[0]
    first = made["step"] + 1 + COOLDOWN + 1
    steps = range(first, first + COOLDOWN)
    for run, key in ((plain, "expected"), (measured, "measured")):
        losses = [run.column("loss")[step - 1] for step in steps]
        assert outcome[key] == pytest.approx(sum(losses) / COOLDOWN)


def test_a_replay_comes_to_the_same_decisions(measured: Run) -> None:
    with alarm("divergence", FOUND):
        assert main(["replay", str(measured.folder)]) == 0


@pytest.mark.thorough
def test_a_run_that_is_nearly_over_is_changed_at_once(runs: Runs) -> None:
    with alarm("divergence", 3):
        run = runs.train(**BASE | {"steps": 12}, **ON, adaptive_branches=1)
    assert decisions(run) and not (run.folder / "undone").exists()


@pytest.mark.thorough
def test_without_a_snapshot_the_change_is_made_all_the_same(runs: Runs) -> None:
    with alarm("divergence", 3):
        run = runs.train(
            **BASE | {"steps": 30}, **ON, adaptive_branches=1, pin=("snapshot",)
        )
    (made,) = decisions(run)
    assert made["action"] == "lower_rate"
    assert run.column("learning_rate")[-1] == pytest.approx(5e-4)
    assert not (run.folder / "undone").exists()


def test_branches_need_something_that_decides(runs: Runs) -> None:
    assert "nothing changes the run" in runs.refused("E002", adaptive_branches=1)


@pytest.mark.parametrize(
    ("apart", "verdict"),
    [(-0.1, "better"), (0.1, "worse"), (0.001, "same"), (0.01, "same")],
)  # the last is clear, but too small to matter
def test_pairs_are_judged_by_their_differences(apart: float, verdict: str) -> None:
    """Noise that both have alike does not count."""
    noise = [0.4, -0.3, 0.2, -0.4, 0.1]
    trial = Trial(1, "a", "lower_rate", 11, 5, None)
    trial.without = [[11.0 + n, 3 + one] for n, one in enumerate(noise)]
    for n, one in enumerate(noise):
        trial.see(11 + n, 3 + one + apart + 0.001 * (-1) ** n)
    outcome = trial.outcome(15)
    assert outcome.verdict == verdict
    assert outcome.measured - outcome.expected == pytest.approx(apart, abs=1e-3)


def test_a_marked_snapshot_needs_room_beside_the_runs_own() -> None:
    control = control_named("snapshot")
    control.check_plan(tiny_plan(recovery={"snapshots": 2}))
    for recovery in ({"snapshots": 1}, {}):
        with pytest.raises(LuminaError, match="fewer than two snapshots"):
            control.check_plan(tiny_plan(recovery=recovery))
    assert control.makes_sense("marked") and not control.makes_sense("best")
