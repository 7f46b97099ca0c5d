"""Records which ledger rows the tests of a run showed working.

Every test marked `covers("MOD-15")` leaves its outcome in `.ledger/last_run.json`:
row -> test id -> {outcome, date}. Runs add up (the quick tests now, the slow ones at
night); the newest outcome of a test wins. `make ledger` reads the file.
"""

from __future__ import annotations

import datetime
import json
import os
import tempfile
from collections.abc import Generator
from pathlib import Path
from typing import Any

import pytest

LEDGER = "covers"
Results = dict[str, dict[str, dict[str, str]]]


class Recorder:
    """Collects outcomes in the process that owns the run and writes them at its end."""

    def __init__(self, path: Path) -> None:
        self.path = path
        self.rows: dict[str, list[str]] = {}
        self.outcomes: dict[str, str] = {}

    def pytest_runtest_logreport(self, report: pytest.TestReport) -> None:
        rows = dict(report.user_properties).get(LEDGER)
        if not rows:
            return
        self.rows[report.nodeid] = str(rows).split(",")
        # Setup and teardown count: a test passes only when all three phases do.
        if report.outcome == "failed":
            self.outcomes[report.nodeid] = "failed"
        elif report.outcome == "skipped" or report.when == "call":
            self.outcomes.setdefault(report.nodeid, report.outcome)

    def pytest_sessionfinish(self) -> None:
        if self.outcomes:
            write(self.path, merge(read(self.path), self.rows, self.outcomes))


def read(path: Path) -> Results:
    """The recorded results, none when there is no readable file."""
    try:
        loaded: Results = json.loads(path.read_text())
    except (OSError, ValueError):
        return {}
    return loaded


def merge(
    known: Results, rows: dict[str, list[str]], outcomes: dict[str, str]
) -> Results:
    """`known` with this run's outcomes in place of older ones of the same tests."""
    today = datetime.date.today().isoformat()
    merged = {
        row: {test: entry for test, entry in tests.items() if test not in outcomes}
        for row, tests in known.items()
    }
    for test, outcome in outcomes.items():
        for row in rows[test]:
            merged.setdefault(row, {})[test] = {"outcome": outcome, "date": today}
    return {row: tests for row, tests in sorted(merged.items()) if tests}


def write(path: Path, results: Results) -> None:
    """Write in one piece: another run may be reading."""
    path.parent.mkdir(parents=True, exist_ok=True)
    handle, name = tempfile.mkstemp(dir=path.parent, suffix=".json")
    with os.fdopen(handle, "w") as file:
        json.dump(results, file, indent=1)
    os.replace(name, path)


def pytest_configure(config: pytest.Config) -> None:
    if not hasattr(config, "workerinput"):
        path = config.rootpath / ".ledger" / "last_run.json"
        config.pluginmanager.register(Recorder(path), "ledger-recorder")


@pytest.hookimpl(hookwrapper=True)
def pytest_runtest_makereport(item: pytest.Item) -> Generator[None, Any, None]:
    outcome = yield
    rows = [row for mark in item.iter_markers(LEDGER) for row in mark.args]
    if rows:
        # user_properties is what xdist carries from a worker to the owner.
        outcome.get_result().user_properties.append((LEDGER, ",".join(rows)))
