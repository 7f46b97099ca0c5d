"""Real processes: decisions of runs that were killed, and of several ranks."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

from lumina.cli.main import main
from lumina.model.registry import load_plugins
from lumina.state.experience.store import ExperienceStore
from lumina.state.run_directory import RunDirectory
from lumina.train.health.check import CHECKS
from lumina.train.orchestrator.actions import ACTIONS
from lumina.train.replaying.replay import replay
from remembered import a_record, outcomes
from training import Trainings, reached, wait_until

pytestmark = pytest.mark.thorough

ALARMS = """
from lumina.train.health.check import Alarm, Check, register_check

@register_check
class Made(Check):
    name, penalty, rule = "oscillation", 10, "in the steps of a test"

    def see(self, row):
        if row["step"] % 10 not in (3, 4):
            return None
        return Alarm("it is a test", {"loss": row["loss"]}, "error", 0.95)
"""


@pytest.fixture
def plugin(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> str:
    """A check that raises alarms in some steps, here and in the processes."""
    path = tmp_path / "alarms.py"
    path.write_text(ALARMS)
    monkeypatch.setitem(CHECKS, "oscillation", CHECKS["oscillation"])
    return str(path)


def flags(plugin: str, store: Path, *more: str) -> list[str]:
    words = "--adaptive on --steps 60 --save-every-n-batches 7 --experience"
    return [*words.split(), str(store), "--plugins", plugin, *more]


def test_a_killed_run_is_replayed_and_remembered(
    trainings: Trainings, plugin: str, tmp_path: Path
) -> None:
    store = tmp_path / "memory.sqlite"
    words = flags(plugin, store)
    running = trainings.start("killed", *words, HOLD_AFTER="25")
    run = trainings.folder / "killed"
    assert wait_until(reached(run, 25), running)
    running.kill()
    load_plugins((plugin,))
    found = replay(RunDirectory(run))
    assert found.differences == []
    assert found.again
    assert ExperienceStore(store).all().runs == []
    assert main(["experience", "add", str(run), "--experience", str(store)]) == 0
    [record] = ExperienceStore(store).all().runs
    assert record.status == "killed"

    trainings.train("killed", *words, "--auto-resume")
    found = replay(RunDirectory(run))
    assert found.differences == []
    assert {one.step > 30 for one in found.again} == {True, False}
    [record] = ExperienceStore(store).all().runs
    assert (record.status, record.steps) == ("finished", 60)


def test_all_ranks_take_over_the_same_experience(
    trainings: Trainings, plugin: str, tmp_path: Path
) -> None:
    store = ExperienceStore(tmp_path / "memory.sqlite")
    assert "lower_rate" in ACTIONS
    bad = outcomes(
        7, better=0, worse=10, anomaly="oscillation", action="lower_rate",
        context="moe:1B:lion:stable",
    )  # fmt: skip
    store.add((a_record(7, kind="moe:1B:lion"), bad))
    run = trainings.train_on_ranks(
        "ranks", *flags(plugin, store.path, "--batch-size", "2")
    )
    plan = json.loads((run / "plan.json").read_text())
    assert plan["experience"] == {"oscillation/any:any/lower_rate": [0, 10]}
    load_plugins((plugin,))
    found = replay(RunDirectory(run))
    assert found.differences == []
    # (0.95 x 20) / (20 + 10) is still enough for a change that can be undone.
    lowered = [one for one in found.again if one.action == "lower_rate"]
    assert [round(one.confidence, 3) for one in lowered][:1] == [0.633]
    assert sorted(one.name for one in store.all().runs) == ["ranks", "run-7"]
