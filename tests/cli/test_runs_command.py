"""`lumina runs`: what the files of a run directory say."""

from __future__ import annotations

import json
import os
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest

from lumina.cli import run_index
from lumina.cli.main import main
from lumina.cli.run_commands import remove
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
    row = rows["running"]
    assert row.pop("written") > 0 and row.pop("path") == str(tmp_path / "running")
    assert row == {
        "run": "running",
        "preset": "debug",
        "step": 41,
        "loss": 2.5,
        "eval": 2.75,
        "checkpoint": "step-00000010",
        "state": "running",
        "tags": [],
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


def told(capsys: pytest.CaptureFixture[str], *words: object, code: int = 0) -> str:
    assert main(["runs", *map(str, words)]) == code
    captured = capsys.readouterr()
    return captured.out + captured.err


@pytest.fixture
def two(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A folder with the runs `first` and `second`, and an index of its own."""
    monkeypatch.setenv("LUMINA_CACHE", str(tmp_path / "cache"))
    monkeypatch.chdir(tmp_path)
    for name, steps in (("first", 3), ("second", 5)):
        run = begun(tmp_path / "runs" / name, steps)
        run.mark("finished", steps)
        run.close()
    return tmp_path / "runs"


def test_only_runs_that_changed_are_read_again(two, capsys, monkeypatch):
    read = []
    of_files = run_index.of_files
    monkeypatch.setattr(
        run_index, "of_files", lambda path: read.append(path.name) or of_files(path)
    )
    first = told(capsys, "list", "--json")
    assert sorted(read) == ["first", "second"]
    assert told(capsys, "list", "--json") == first and len(read) == 2
    log = MetricsLog(two / "second" / "metrics.jsonl")
    log.append({"step": 7, "loss": 1.25})
    log.close()
    changed = {one["run"]: one for one in json.loads(told(capsys, "list", "--json"))}
    assert read[2:] == ["second"] and changed["second"]["loss"] == 1.25


def test_the_index_is_made_again_from_the_folders(two, tmp_path, capsys):
    index = tmp_path / "cache" / "runs.sqlite"
    before = told(capsys, "list", "--json")
    for content in (None, b"no database at all" * 99, index.read_bytes()[:5000]):
        index.unlink()
        if content is not None:
            index.write_bytes(content)
        assert json.loads(told(capsys, "list", "--json")) == json.loads(before)
    assert told(capsys, "list", "--rebuild", "--json") == before
    assert len(json.loads(told(capsys, "list", "--all", "--json"))) == 2
    (two / "first").rename(two.parent / "moved")
    assert "first" not in told(capsys, "list", "--all")
    # A folder in the place of the index: every list still answers, and says so.
    index.unlink()
    index.mkdir()
    shown = told(capsys, "list")
    assert "warning" in shown and "second" in shown


def test_tags_are_in_the_folder_of_the_run(two, capsys):
    assert told(capsys, "tag", "first", "good", "base") == "runs/first: good, base\n"
    told(capsys, "tag", "first", "good", "--remove", "base")
    assert json.loads((two / "first" / "tags.json").read_text()) == {"tags": ["good"]}
    assert "E005" in told(capsys, "tag", "first", "--remove", "base", code=2)
    found = json.loads(told(capsys, "list", "--tag", "good", "--json"))
    assert [one["run"] for one in found] == ["first"]
    (two / "first").rename(two / "renamed")
    assert "renamed" in told(capsys, "list", "--tag", "good")


def test_tags_that_cannot_be_read_are_not_written_over(two, capsys):
    tags = two / "first" / "tags.json"
    for damaged in ('{"tags": ["good", "ba', '{"tags": "good"}', "[]"):
        tags.write_text(damaged)
        assert "E101" in told(capsys, "tag", "first", "new", code=1)
        assert tags.read_text() == damaged
        assert "first" in told(capsys, "list")


def test_a_run_is_shown_and_compared(two, capsys):
    shown = told(capsys, "show", "first")
    assert "6.9000 -> 2.5000" in shown and "2.7500 after step 4" in shown
    ConfigPresets.debug().replace(learning_rate=0.5).save(two / "second/config.yaml")
    found = json.loads(told(capsys, "compare", "first", "second", "--json"))
    usual = ConfigPresets.debug().train.learning_rate
    assert found["settings"] == {"learning_rate": [usual, 0.5]}
    # Step 4 is the last of the first run, and one in the middle of the second.
    assert found["same_step"] == 4
    assert found["results"]["loss at same step"] == [2.5, 6.6]
    assert "learning_rate" in told(capsys, "compare", "first", "second")
    assert "E304" in told(capsys, "compare", "first", "third", code=1)
    assert "E005" in told(capsys, "compare", "first", code=2)


def test_removing_asks_and_follows_no_link(two, tmp_path, capsys, monkeypatch):
    outside = tmp_path / "outside"
    outside.mkdir()
    (outside / "precious.txt").write_text("kept")
    (two / "first" / "link").symlink_to(outside, target_is_directory=True)
    (two / "alias").symlink_to(two / "second", target_is_directory=True)
    assert "E002" in told(capsys, "remove", "alias", "--yes", code=2)
    assert "E005" in told(capsys, "remove", "first", code=2)  # no terminal
    monkeypatch.setattr(remove, "sys", SimpleNamespace(stdin=Terminal()))
    monkeypatch.setattr("builtins.input", lambda question: "n")
    assert "nothing is deleted" in told(capsys, "remove", "first", code=1)
    assert (two / "first").is_dir()
    monkeypatch.setattr("builtins.input", lambda question: "y")
    told(capsys, "remove", "first")
    assert not (two / "first").exists()
    assert (outside / "precious.txt").read_text() == "kept"
    with RunDirectory(two / "second").acquire(resume=True):
        assert "E002" in told(capsys, "remove", "second", "--yes", code=2)
    (tmp_path / "project").mkdir()
    (tmp_path / "project" / "config.yaml").write_text("mine: 1\n")
    assert "E002" in told(capsys, "remove", tmp_path / "project", "--yes", code=2)
    told(capsys, "remove", "second", "--yes")
    assert [path.name for path in two.iterdir()] == ["alias"]


def test_a_run_that_begins_while_it_is_asked_for_is_not_deleted(
    two, capsys, monkeypatch
):
    began = []

    def answer(number):
        began.append(RunDirectory(two / "first").acquire(resume=True))
        return True

    monkeypatch.setattr(remove, "_agreed", answer)
    assert "being trained" in told(capsys, "remove", "first", code=2)
    assert (two / "first" / "config.yaml").is_file()
    began.pop().close()


class Terminal:
    """Standard input of a person."""

    def isatty(self) -> bool:
        return True
