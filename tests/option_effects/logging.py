"""Options of logs: what is told where, and when files begin anew."""

from __future__ import annotations

import gzip
import json

import pytest

from lumina.state.archives import archives
from lumina.state.metrics import read_metrics
from option_effects import shows
from tiny_runs import Runs


@pytest.mark.covers(
    "MON-15: --log-file",
    "MON-12: log_level DEBUG, INFO, WARNING, ERROR",
    "TRN-02: --log-file JSONL",
)
@shows("log_file", "log_level", "log_format")
def log_files(runs: Runs) -> None:
    base = {"steps": 5, "log_every_n_batches": 4, "eval_fraction": 0.0}
    place = runs.folder / "logs" / "run.log"
    found = {}
    for level in ("DEBUG", "INFO", "WARNING"):
        run = runs.train(**base, log_file=str(place), log_level=level)
        found[level] = place.read_text().splitlines()
        assert len(run.events) >= 2
        place.unlink()

    def steps(lines: list[str]) -> list[int]:
        return [
            int(line.partition(" step ")[2].partition(":")[0])
            for line in lines
            if "  grad_norm " in line
        ]

    assert steps(found["DEBUG"]) == [1, 2, 3, 4, 5]
    assert steps(found["INFO"]) == [1, 4]
    assert any("written and verified" in line for line in found["INFO"])
    assert not any(" INFO " in line for line in found["WARNING"])
    runs.train(**base, log_file=str(place), log_format="json")
    lines = [json.loads(line) for line in place.read_text().splitlines()]
    assert {"time", "level", "message", "kind", "step"} <= set(lines[-1])
    rows = [line for line in lines if line.get("kind") == "progress"]
    assert [line["step"] for line in rows] == [1, 4]
    assert rows[1]["data"]["loss"] > 0 and rows[1]["level"] == "INFO"
    shown = runs.train(**base, warmup_steps=4, log_level="INFO", save_total_limit=1)
    quiet = runs.train(**base, warmup_steps=4, log_level="ERROR", save_total_limit=1)
    assert "info at step" in shown.printed and "info at step" not in quiet.printed


@pytest.mark.covers("MON-12: verbosity, rotation, archiving")
@shows("log_rotate_mib", "log_keep", "metrics_rotate_mib")
def rotated_files(runs: Runs) -> None:
    base = {"steps": 12, "log_every_n_batches": 1, "eval_fraction": 0.0}
    place = runs.folder / "run.log"
    small = {"log_rotate_mib": 0.0005, "log_keep": 2, "metrics_rotate_mib": 0.004}
    whole = runs.train(**base, log_file=str(place))
    count = len(place.read_text().splitlines())
    assert not list(runs.folder.glob("run.log.*")) and count > 12
    assert not archives(whole.folder / "metrics.jsonl")
    place.unlink()
    run = runs.train(**base, log_file=str(place), **small)
    assert sorted(one.name for one in runs.folder.glob("run.log*")) == [
        "run.log",
        "run.log.1.gz",
        "run.log.2.gz",
    ]
    newest = gzip.decompress((runs.folder / "run.log.1.gz").read_bytes()).decode()
    assert 0 < len(newest.splitlines()) < count
    assert len(archives(run.folder / "metrics.jsonl")) >= 2
    rows = read_metrics(run.folder)
    assert [row["step"] for row in rows] == list(range(1, 13))
    assert [row["loss"] for row in rows] == whole.column("loss")
