"""Services that show a run: what reaches them, and that none can harm the run."""

from __future__ import annotations

import json
import os
import socket
import subprocess
import sys
import time
import urllib.request
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from lumina.config import Config
from lumina.observe.trackers import declared, feed
from lumina.observe.trackers.tracker import numbers
from mechanisms import mechanism
from tiny_runs import Run, Runs
from training import wait_until
from wandb_files import wandb_records

PLUGIN = """
import threading, time
import lumina
from lumina.observe.trackers import Tracker

SEEN = []

@lumina.register_tracker("toy")
class Toy(Tracker):
    def __init__(self, session):
        super().__init__(session)
        self.identity = session.identity or "first"
        SEEN.append(("open", session.name, session.step, session.identity))
    def row(self, step, values):
        SEEN.append(("row", step, values))
    def event(self, event):
        SEEN.append(("event", event["kind"]))
    def close(self, status):
        SEEN.append(("close", status))
"""


@pytest.fixture
def runs(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Runs]:
    yield Runs(tmp_path, monkeypatch)
    declared.TRACKERS.pop("toy", None)


def toy(runs: Runs, text: str = PLUGIN) -> dict[str, Any]:
    """Options of a run with the toy tracker, and a module where it leaves its trace."""
    file = runs.folder / "toy_tracker.py"
    file.write_text(text)
    return {"plugins": (str(file),), "trackers": ("toy",), "log_every_n_batches": 2}


def seen() -> list[tuple[Any, ...]]:
    return list(declared.TRACKERS["toy"].cls.__init__.__globals__["SEEN"])


def failures(run: Run) -> list[dict[str, Any]]:
    return [event for event in run.events if event["kind"] == "tracker_failed"]


def test_rows_events_and_the_end_reach_a_tracker_in_order(runs: Runs) -> None:
    options = toy(runs)
    run = runs.train(**options, steps=5, eval_every_n_batches=3, tracker_run_name="one")
    found = seen()
    assert found[0] == ("open", "one", 0, None)
    assert found[-1] == ("close", "finished")
    sent = [entry for entry in found if entry[0] == "row"]
    assert [step for _, step, _ in sent] == [1, 2, 3, 4, 5]  # 3 has an evaluation
    for _, step, values in sent:
        assert values == numbers(run.rows[step - 1])
        assert values["loss"] == run.rows[step - 1]["loss"]
    assert "eval_loss" in sent[2][2] and "step" not in sent[0][2]
    kinds = [entry[1] for entry in found if entry[0] == "event"]
    assert kinds == [e["kind"] for e in run.events][: len(kinds)]
    assert "run_started" in kinds and not failures(run)


def test_a_resumed_run_goes_on_with_the_same_session(runs: Runs) -> None:
    options = toy(runs)
    begun = runs.train(**options, steps=2)
    kept = json.loads((begun.folder / feed.IDENTITIES).read_text())
    assert kept == {"toy": "first"}
    place = {"run_dir": str(begun.folder), "auto_resume": True}
    runs.train(**options, steps=4, **place)
    opened = [entry for entry in seen() if entry[0] == "open"]
    assert opened[-1] == ("open", begun.folder.name, 2, "first")


@mechanism(
    "tracker fails",
    component="network",
    failure="a tracker raises at its start, in a row, or at its end",
    recovery="go on",
    expected="said once; the run is the same to the bit",
    real=False,
)
@pytest.mark.parametrize(
    ("change", "why"),
    [
        (("super().__init__(session)", "raise OSError('no network')"), "no network"),
        (('SEEN.append(("row"', 'raise ValueError(("row"'), "ValueError"),
        (("def row(self, step, values):", "def row(self):"), "TypeError"),
        (('SEEN.append(("close", status))', "raise SystemExit(3)"), "SystemExit"),
    ],
    ids=["at the start", "in a row", "in its code", "at the end"],
)
def test_a_tracker_that_fails_is_said_once_and_harms_nothing(
    runs: Runs, change: tuple[str, str], why: str
) -> None:
    plain = runs.train(steps=6)
    text = PLUGIN.replace(*change)
    assert text != PLUGIN
    run = runs.train(**toy(runs, text), steps=6)
    assert run.result.exit_code == 0
    assert run.column("loss") == plain.column("loss")
    (event,) = failures(run)
    assert why in event["message"] and event["severity"] == "warning"
    assert event["data"]["tracker"] == "toy" and event["data"]["lost"] >= 0
    assert "toy does not show all of this run" in run.printed.replace("\n", " ")


@mechanism(
    "tracker does not answer",
    component="network",
    failure="a call of a tracker never returns",
    recovery="go on",
    expected="the run ends in time and is the same",
    real=False,
)
def test_a_tracker_that_never_comes_back_does_not_hold_the_run(runs: Runs) -> None:
    runs.monkeypatch.setattr(feed, "PATIENCE", 0.1)
    runs.monkeypatch.setattr(feed, "WAITING", 3)
    stuck = PLUGIN.replace('SEEN.append(("row"', 'threading.Event().wait(), (("row"')
    run = runs.train(**toy(runs, stuck) | {"log_every_n_batches": 1}, steps=9)
    assert len(run.rows) == 9 and run.result.exit_code == 0
    (event,) = failures(run)
    assert event["data"]["lost"] >= 5, event


def test_what_cannot_be_is_refused_before_anything_is_made(
    runs: Runs, monkeypatch: pytest.MonkeyPatch
) -> None:
    told = runs.refused("E005", trackers=("tensorbord",))
    assert "tensorbord" in told
    monkeypatch.setattr(declared, "installed", lambda name: name != "mlflow")
    told = runs.refused("E003", trackers=("mlflow",))
    assert "needs the package mlflow" in told


def test_the_page_on_trackers_shows_one_that_works(runs: Runs) -> None:
    page = (Path(__file__).parents[2] / "docs" / "trackers.md").read_text()
    text = page.partition("```python\n")[2].partition("```")[0]
    file = runs.folder / "printed.py"
    file.write_text(text)
    run = runs.train(plugins=(str(file),), trackers=("printed",), steps=2)
    declared.TRACKERS.pop("printed")
    lines = (run.folder / "printed.txt").read_text().splitlines()
    assert f"1 {run.rows[0]['loss']}" in lines and f"2 {run.rows[1]['loss']}" in lines
    assert lines[0].startswith("run_started") and lines[-1] != lines[0]
    assert not failures(run)


@pytest.mark.parametrize("word", ["use_tensorboard", "use_wandb"])
def test_the_switches_of_the_earlier_designs_name_a_tracker(word: str) -> None:
    named = Config.resolve(flags={word: True})
    assert named.tracking.trackers == (word.removeprefix("use_"),)
    assert Config.resolve(flags={word: False}).tracking.trackers == ()


@pytest.mark.covers("MON-13")
def test_tensorboard_reads_what_a_run_and_its_resume_wrote(runs: Runs) -> None:
    pytest.importorskip("tensorboard")
    from tensorboard.backend.event_processing.event_accumulator import EventAccumulator

    options = {"trackers": ("tensorboard",), "log_every_n_batches": 1}
    first = runs.train(**options, steps=4, save_every_n_batches=2)
    # The steps after the second checkpoint are trained again.
    (first.folder / "checkpoints" / "LATEST").write_text("step-00000002")
    place = {"run_dir": str(first.folder), "resume": str(first.folder)}
    more = runs.train(**options, steps=6, **place)
    shown = EventAccumulator(str(first.folder / "tensorboard"))
    shown.Reload()
    points = [(point.step, point.value) for point in shown.Scalars("loss")]
    expected = [(row["step"], pytest.approx(row["loss"])) for row in more.rows]
    assert points == expected and len(points) == 6
    assert "events/resumed/text_summary" in shown.Tags()["tensors"]
    elsewhere = runs.train(
        **options, steps=1, tensorboard_dir=str(runs.folder / "boards")
    )
    assert list((runs.folder / "boards" / elsewhere.folder.name).iterdir())
    assert not (elsewhere.folder / "tensorboard").exists()


@pytest.mark.thorough
@pytest.mark.covers("MON-14")
def test_wandb_reads_what_a_run_and_its_resume_wrote_offline(runs: Runs) -> None:
    pytest.importorskip("wandb")
    options = {
        "trackers": ("wandb",),
        "wandb_mode": "offline",
        "tracker_project": "stories",
        "tracker_run_name": "the-first",
        "log_every_n_batches": 1,
    }
    first = runs.train(**options, steps=2)
    place = {"run_dir": str(first.folder), "auto_resume": True}
    more = runs.train(**options, steps=4, **place)
    assert not failures(more)
    # Its service, another process, writes on for a moment.
    assert wait_until(
        lambda: sum(r.HasField("exit") for r in wandb_records(first.folder)) >= 2
    )
    records = wandb_records(first.folder)
    began = [record.run for record in records if record.HasField("run")]
    assert {(run.project, run.display_name) for run in began} == {
        ("stories", "the-first")
    }
    kept = json.loads((first.folder / feed.IDENTITIES).read_text())
    assert {run.run_id for run in began} == {kept["wandb"]}
    history = [
        {
            "/".join(item.nested_key) or item.key: json.loads(item.value_json)
            for item in record.history.item
        }
        for record in records
        if record.HasField("history")
    ]
    losses = {row["step"]: row["loss"] for row in history if "loss" in row}
    assert losses == {row["step"]: row["loss"] for row in more.rows}
    assert any("events/resumed" in row for row in history)


def free_port() -> int:
    with socket.socket() as door:
        door.bind(("127.0.0.1", 0))
        return int(door.getsockname()[1])


@pytest.fixture
def mlflow_server(tmp_path: Path) -> Iterator[str]:
    """A real MLflow server on loopback."""
    pytest.importorskip("flask", reason="the whole of mlflow is not installed")
    pytest.importorskip("mlflow.server", reason="mlflow is not installed")
    address = f"http://127.0.0.1:{(port := free_port())}"
    with open(tmp_path / "server.log", "wb") as log:
        server = subprocess.Popen(
            [
                sys.executable, "-m", "mlflow", "server", "--host", "127.0.0.1",
                "--port", str(port), "--workers", "1",
                "--backend-store-uri", f"sqlite:///{tmp_path}/served.db",
                "--default-artifact-root", str(tmp_path / "artifacts"),
            ],
            stdout=log, stderr=log, start_new_session=True,
        )  # fmt: skip
    try:
        deadline = time.monotonic() + 240
        while True:
            try:
                urllib.request.urlopen(f"{address}/health", timeout=5).read()
                break
            except OSError:
                told = (tmp_path / "server.log").read_text()
                assert server.poll() is None and time.monotonic() < deadline, told
                time.sleep(0.2)
        yield address
    finally:
        os.killpg(server.pid, 15)
        server.wait()


@pytest.mark.thorough
def test_an_mlflow_server_shows_a_run_and_its_resume(
    runs: Runs, mlflow_server: str
) -> None:
    from mlflow.tracking import MlflowClient

    options = {
        "trackers": ("mlflow",),
        "mlflow_uri": mlflow_server,
        "tracker_project": "stories",
        "log_every_n_batches": 1,
    }
    first = runs.train(**options, steps=2)
    place = {"run_dir": str(first.folder), "auto_resume": True}
    more = runs.train(**options, steps=4, **place)
    assert not failures(more), failures(more)
    client = MlflowClient(mlflow_server)
    experiment = client.get_experiment_by_name("stories")
    (shown,) = client.search_runs([experiment.experiment_id])
    assert shown.info.run_name == first.folder.name
    assert shown.info.status == "FINISHED"
    assert shown.data.params["hidden_size"] == "32"
    history = client.get_metric_history(shown.info.run_id, "loss")
    assert {m.step: m.value for m in history} == {
        row["step"]: pytest.approx(row["loss"]) for row in more.rows
    }
    assert any(".resumed." in name for name in shown.data.tags)


@pytest.mark.thorough
def test_trackio_keeps_a_run_and_its_resume(
    runs: Runs, monkeypatch: pytest.MonkeyPatch
) -> None:
    pytest.importorskip("trackio", reason="trackio is not installed")
    script = """
import sys, json
from lumina.cli.main import main
sys.exit(main(json.loads(sys.argv[1])))
"""
    place = runs.folder / "trackio"
    base = {"trackers": ("trackio",), "log_every_n_batches": 1}
    config = runs.config(**base, steps=2)
    file = runs.folder / "run.yaml"
    environment = os.environ | {"TRACKIO_DIR": str(place), "HF_HUB_OFFLINE": "1"}
    for steps in ("2", "4"):
        config.save(file)
        words = ["train", "--config-file", str(file), "--steps", steps, "--auto-resume"]
        subprocess.run(
            [sys.executable, "-c", script, json.dumps(words)],
            env=environment, check=True, capture_output=True, timeout=300,
        )  # fmt: skip
    rows = [
        json.loads(line)
        for line in (Path(str(config.run.run_dir)) / "metrics.jsonl").open()
    ]
    read = """
import json, sys
from trackio.sqlite_storage import SQLiteStorage
run = SQLiteStorage.get_runs("lumina")[0]
print(json.dumps([run, SQLiteStorage.get_logs("lumina", run)], default=str))
"""
    done = subprocess.run(
        [sys.executable, "-c", read], env=environment, check=True,
        capture_output=True, text=True,
    )  # fmt: skip
    name, logs = json.loads(done.stdout.splitlines()[-1])
    assert name == Path(str(config.run.run_dir)).name
    assert {log["step"]: log["loss"] for log in logs} == {
        row["step"]: pytest.approx(row["loss"]) for row in rows
    }
