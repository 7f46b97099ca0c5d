"""`lumina runs`: what the files of a run directory say."""

from __future__ import annotations

import json
import os
from pathlib import Path
from typing import Any

import pytest

from lumina.cli.main import main
from lumina.config import ConfigPresets
from lumina.state.metrics import MetricsLog
from lumina.state.run_directory import RunDirectory


def begun(path: Path, steps: int) -> RunDirectory:
    """A run directory as training leaves it."""
    directory = RunDirectory(path).acquire()
    ConfigPresets.debug().save(directory.config)
    log = MetricsLog(directory.metrics)
    for step in range(1, steps + 1):
        log.append({"step": step, "loss": 7 - step / 10})
    log.append({"step": steps + 1, "loss": 2.5, "eval_loss": 2.75})
    log.close()
    directory.checkpoints.mkdir(exist_ok=True)
    (directory.checkpoints / "LATEST").write_text("step-00000010\n")
    return directory


def listed(folder: Path, capsys: pytest.CaptureFixture[str]) -> dict[str, Any]:
    assert main(["runs", str(folder), "--json"]) == 0
    return {row["run"]: row for row in json.loads(capsys.readouterr().out)}


def test_states_of_runs(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    finished = begun(tmp_path / "finished", 3)
    finished.mark("finished", 4)
    finished.close()
    killed = begun(tmp_path / "killed", 3)
    killed.mark("running", 2)
    killed.close()
    running = begun(tmp_path / "running", 40)
    running.mark("running", 2)
    (tmp_path / "not-a-run").mkdir()
    try:
        rows = listed(tmp_path, capsys)
    finally:
        running.close()
    assert {name: row["state"] for name, row in rows.items()} == {
        "finished": "finished",
        "killed": "killed",
        "running": "running",
    }
    assert rows["running"] == {
        "run": "running",
        "preset": "debug",
        "step": 41,
        "loss": 2.5,
        "eval": 2.75,
        "checkpoint": "step-00000010",
        "state": "running",
    }


def test_half_written_and_empty_runs_are_listed(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    begun(tmp_path / "cut", 3).close()
    with open(tmp_path / "cut" / "metrics.jsonl", "a") as file:
        file.write('{"step": 5, "lo')
    (tmp_path / "empty" / "checkpoints").mkdir(parents=True)
    os.utime(tmp_path / "empty", (0, 0))
    rows = listed(tmp_path, capsys)
    assert list(rows) == ["empty", "cut"]
    assert rows["cut"]["step"] == 4
    assert rows["empty"]["step"] is None and rows["empty"]["state"] == "unknown"
    assert main(["runs", str(tmp_path / "cut")]) == 0
    assert "step-00000010" in capsys.readouterr().out


def test_no_runs(
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> None:
    monkeypatch.chdir(tmp_path)
    assert main(["runs"]) == 0
    assert "no runs here yet" in capsys.readouterr().out
    assert main(["runs", "nowhere"]) == 1
    assert "E104" in capsys.readouterr().err
