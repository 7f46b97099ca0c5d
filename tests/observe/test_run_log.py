"""The log file of a run: what reaches it, and that it harms nothing."""

from __future__ import annotations

import json
import logging
import warnings

import pytest

from lumina.errors import LuminaError
from lumina.observe.run_log import LOGGER, RunLog

EVENT = {"step": 3, "kind": "step_skipped", "code": "E302", "message": "two\nlines"}


def test_events_rows_and_warnings_are_lines(tmp_path):
    path, seen = tmp_path / "there" / "run.log", []
    with warnings.catch_warnings():
        warnings.simplefilter("always")
        warnings.showwarning = lambda *about: seen.append(about[0])
        shown = warnings.showwarning
        log = RunLog(path, level="WARNING")
        log.event(EVENT | {"severity": "warning"})
        log.event(EVENT | {"severity": "info"})
        log.row({"step": 10, "loss": 1.5})
        warnings.warn("mind the gap", UserWarning, stacklevel=1)
        logging.getLogger("lumina.mine").error("from a plug-in")
        log.close()
        assert warnings.showwarning is shown and len(seen) == 1
    lines = path.read_text().splitlines()
    assert [line.split(maxsplit=1)[1].split(maxsplit=1) for line in lines[:1]] == [
        ["WARNING", "step 3: E302 two lines"]
    ]
    assert "UserWarning: mind the gap" in lines[1] and "ERROR" in lines[2]
    assert len(lines) == 3 and LOGGER.handlers == []
    again = RunLog(path, form="json", every=5)
    again.row({"step": 4, "loss": 1.5})
    again.row({"step": 5, "loss": float("nan"), "eval_loss": None})
    again.close()
    [line] = path.read_text().splitlines()[3:]
    found = json.loads(line)
    assert (found["level"], found["step"], found["kind"]) == ("INFO", 5, "progress")
    assert found["data"] == {"loss": None}


def test_a_file_that_cannot_be_written_is_refused_or_said_once(tmp_path, monkeypatch):
    with pytest.raises(LuminaError) as caught:
        RunLog(tmp_path)
    assert caught.value.code == "E104"
    log = RunLog(tmp_path / "run.log")

    def full(_):
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(log._handler.stream, "write", full, raising=False)
    log.row({"step": 1, "loss": 1.0})
    log.row({"step": 10, "loss": 1.0})
    assert "No space left" in log.problem
    log.close()


def test_a_full_log_does_not_stop_the_run(tiny_config, tmp_path, monkeypatch):
    import lumina
    from lumina.observe import run_log

    def full(*_):
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(run_log._File, "shouldRollover", full)
    config = tiny_config.replace(
        log_file=str(tmp_path / "run.log"), steps=2, warmup_steps=0
    )
    result = lumina.Trainer(config).train()
    events = (result.run_dir / "events.jsonl").read_text()
    assert result.steps == 2 and events.count("log_failed") == 1


def test_a_full_disk_ends_the_log_and_not_the_run():
    log = RunLog("/dev/full")
    log.row({"step": 1, "loss": 2.0})
    assert "No space left" in log.problem
    log.row({"step": 2, "loss": 1.0})
    log.close()
