"""Decisions are made again from the files of a run, whatever happened to the run."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from lumina import Trainer
from lumina.cli.main import main
from lumina.state.run_directory import RunDirectory
from lumina.train.replaying.replay import Replayed, replay
from option_effects.adaptive import alarm
from tiny_runs import Run, Runs

ALARMS = (3, 4, 12, 13, 21, 22, 23)
LONG: dict[str, Any] = {
    "adaptive": "on",
    "adaptive_levels": (1, 2, 3),
    "steps": 32,
    "eval_every_n_batches": 5,
    "save_every_n_batches": 5,
    "experience": "off",
}


@pytest.fixture
def runs(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Runs:
    return Runs(tmp_path, monkeypatch)


def again(folder: Path, least: int = 3) -> Replayed:
    """Replay a run; there are decisions enough, and they are those of the record."""
    with alarm("divergence", *ALARMS):
        found = replay(RunDirectory(folder))
    assert found.differences == []
    assert len(found.recorded) == len(found.again) >= least
    assert any(one.verdict for one in found.again)
    return found


def changed(file: Path, kind: Callable[[dict[str, Any]], bool], **values: Any) -> None:
    """Change the first line that is meant."""
    lines = [json.loads(line) for line in file.read_text().splitlines()]
    meant = next(line for line in lines if kind(line))
    meant.get("data", meant).update(values)
    file.write_text("".join(json.dumps(line) + "\n" for line in lines))


def test_decisions_and_outcomes_are_made_again(
    runs: Runs, capsys: pytest.CaptureFixture[str]
) -> None:
    with alarm("divergence", *ALARMS):
        run = runs.train(**LONG | {"steps": 24})
        assert main(["replay", str(run.folder), "--json"]) == 0
    found = json.loads(capsys.readouterr().out)
    assert found["same"]
    assert len(found["again"]) == len(found["recorded"]) >= 3
    assert {"lower_rate", "reset_moments"} <= {one["action"] for one in found["again"]}
    assert any(one["verdict"] for one in found["again"])

    changed(run.folder / "events.jsonl", lambda e: e["kind"] == "decision", new=0.25)
    with alarm("divergence", *ALARMS):
        assert main(["replay", str(run.folder)]) == 1
    said = capsys.readouterr().out
    assert "new is 0.25 in the record" in said
    assert "they are not those of the record" in said


@pytest.mark.thorough
def test_another_loss_or_another_plan_gives_other_decisions(runs: Runs) -> None:
    alarms = (
        *ALARMS,
        45,
    )  # the last one behind the first phase, which foresees nothing
    with alarm("divergence", *alarms):
        run = runs.train(**LONG | {"steps": 64})
    before = (run.folder / "metrics.jsonl").read_text()
    for row in run.rows:
        if row["step"] in range(40, 60):
            changed(
                run.folder / "metrics.jsonl",
                lambda r, step=row["step"]: r["step"] == step,
                loss=99.0,
            )
    with alarm("divergence", *alarms):
        assert replay(RunDirectory(run.folder)).differences
    (run.folder / "metrics.jsonl").write_text(before)
    plan = run.folder / "plan.json"
    values = json.loads(plan.read_text())
    values["orchestrator"]["cooldown_steps"] += 5
    plan.write_text(json.dumps(values))
    with alarm("divergence", *alarms):
        assert replay(RunDirectory(run.folder)).differences


@pytest.mark.thorough
def test_a_run_that_goes_on_longer(runs: Runs) -> None:
    """Its plan changes, and with it the cooldown; the earlier one is kept."""
    with alarm("divergence", *ALARMS):
        first = runs.train(**LONG | {"steps": 16})
        again(first.folder, least=1)
        more = LONG | {"adaptive_cooldown_steps": 8}
        runs.train(**more | {"run_dir": None, "resume": str(first.folder)})
    assert (first.folder / "earlier_plans" / "1.json").is_file()
    found = again(first.folder)
    assert {one.step > 16 for one in found.recorded} == {True, False}


class _Broken(BaseException):
    """Ends a run as a kill does: no error that is saved for."""


def interrupted(runs: Runs, at: int, **leaves: Any) -> Path:
    """A run that breaks off behind a step, and goes on from the checkpoint before."""
    config = runs.config(**LONG | leaves)

    def on_step(trainer: Trainer, row: dict[str, Any]) -> None:
        if row["step"] == at:
            raise _Broken

    with alarm("divergence", *ALARMS):
        with pytest.raises(_Broken):
            Trainer(config, on_step=on_step).train()
        Trainer(config.replace(auto_resume=True)).train()
    return Path(str(config.run.run_dir))


@pytest.mark.covers("ORC-41")
@pytest.mark.parametrize("at", [pytest.param(14, marks=pytest.mark.thorough), 17])
def test_a_run_that_broke_off_and_went_on(runs: Runs, at: int) -> None:
    folder = interrupted(runs, at)
    assert list(folder.glob("metrics.discarded-*"))
    again(folder)


@pytest.mark.thorough
def test_a_run_that_was_taken_back(runs: Runs) -> None:
    asked = []

    def on_step(trainer: Trainer, row: dict[str, Any]) -> None:
        if row["step"] == 18 and not asked:
            asked.append(trainer.controls.request("rollback", {"steps": 8}, "a test"))

    config = runs.config(**LONG)
    with alarm("divergence", *ALARMS):
        folder = Trainer(config, on_step=on_step).train().run_dir
    assert (folder / "undone" / "1" / "metrics.jsonl").is_file()
    found = again(folder)
    numbers = [one.number for one in found.recorded]
    assert numbers == sorted(numbers)


def test_a_run_without_decisions_has_nothing_to_make_again(
    runs: Runs, capsys: pytest.CaptureFixture[str]
) -> None:
    run: Run = runs.train()
    assert main(["replay", str(run.folder)]) == 2
    assert "adaptive off" in capsys.readouterr().err
