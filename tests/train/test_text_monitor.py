"""The report of what a run's model writes."""

from __future__ import annotations

import json
from pathlib import Path
from types import SimpleNamespace
from typing import Any, cast

from lumina.config import Config
from lumina.measure.text_safety.words import read_words
from lumina.state.run_directory import RunDirectory
from lumina.train.text_monitor import TextMonitor


def test_a_report_that_cannot_be_read_is_kept_beside_the_new_one(tmp_path: Path):
    told: list[tuple[Any, ...]] = []
    recorder = SimpleNamespace(event=lambda *said, **more: told.append(said))
    config = Config(monitor_toxic_generation=True, generate_safety_report=True)
    run = RunDirectory(tmp_path)
    monitor = TextMonitor(
        config, read_words(None), run, cast("Any", recorder), cast("Any", None)
    )
    monitor.measure(1, [("Once", " there was an owl.")])
    half = run.safety_report.read_text()[:-20]
    run.safety_report.write_text(half)
    monitor.measure(2, [("Once", " there was an owl.")])
    measured = json.loads(run.safety_report.read_text())["measured"]
    assert [one["step"] for one in measured] == [2]
    assert (tmp_path / "safety_report.damaged").read_text() == half
    assert [said[0] for said in told].count("safety_report_lost") == 1
    monitor.measure(3, [("Once", " there was an owl.")])
    measured = json.loads(run.safety_report.read_text())["measured"]
    assert [one["step"] for one in measured] == [2, 3]
