"""Options of trackers: which services show a run, where, and under which name."""

from __future__ import annotations

import json

import pytest

from option_effects import shows
from tiny_runs import Runs

SPY = """
import json
import lumina
from lumina.observe.trackers import Tracker

@lumina.register_tracker("spy")
class Spy(Tracker):
    def __init__(self, session):
        super().__init__(session)
        told = [session.project, session.name, dict(session.options)]
        (session.folder / "spied.json").write_text(json.dumps(told))
    def row(self, step, values): pass
    def event(self, event): pass
"""


@shows("tracker_project", "tracker_run_name", "wandb_mode", "mlflow_uri")
def session(runs: Runs) -> None:
    """What every service is opened with; each service has tests of its own."""
    from lumina.observe.trackers import TRACKERS

    plugin = runs.folder / "spy.py"
    plugin.write_text(SPY)
    base = {"plugins": (str(plugin),), "trackers": ("spy",), "steps": 1}
    given = {
        "tracker_project": "stories",
        "tracker_run_name": "first",
        "wandb_mode": "offline",
        "mlflow_uri": "http://127.0.0.1:9",
    }
    try:
        plain, named = runs.train(**base), runs.train(**base, **given)
    finally:
        TRACKERS.pop("spy", None)
    project, name, options = json.loads((plain.folder / "spied.json").read_text())
    assert (project, name) == ("lumina", plain.folder.name)
    assert options["wandb_mode"] is options["mlflow_uri"] is None
    project, name, options = json.loads((named.folder / "spied.json").read_text())
    assert (project, name) == ("stories", "first")
    assert options["wandb_mode"] == "offline"
    assert options["mlflow_uri"] == "http://127.0.0.1:9"


@pytest.mark.covers("MON-13")
@shows("trackers", "tensorboard_dir")
def boards(runs: Runs) -> None:
    pytest.importorskip("tensorboard")
    none = runs.train(steps=1)
    assert not (none.folder / "tensorboard").exists()
    beside = runs.train(steps=1, trackers=("tensorboard",))
    assert list((beside.folder / "tensorboard").glob("events.*"))
    there = runs.folder / "boards"
    other = runs.train(steps=1, trackers=("tensorboard",), tensorboard_dir=str(there))
    assert list((there / other.folder.name).glob("events.*"))
    assert not (other.folder / "tensorboard").exists()
