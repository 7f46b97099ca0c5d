"""Records which tests carry `covers` marks, and how they ended.

A mark names a row of the specification, or one of its clauses:
`covers("MOD-15", "TRN-25: NaN/Inf guard")`. A run leaves the outcome of every marked
test in `.ledger/last_run.json`: test id -> {outcome, date}. Runs add up (the quick
tests now, the slow ones at night); the newest outcome of a test wins.

`--collect-only` leaves the marks themselves in `.ledger/marks.json`: test id -> marks,
for every test there is. pytest has resolved them by then, so it does not matter how a
mark reached a test: by a decorator, a class, `pytestmark`, a parameter or a variable.
`make ledger` reads both files.
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
Outcomes = dict[str, dict[str, str]]


class Recorder:
    """Collects outcomes in the process that owns the run and writes them at its end."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        self.outcomes: dict[str, str] = {}

    def pytest_collection_finish(self, session: pytest.Session) -> None:
        if session.config.option.collectonly:
            marks = {item.nodeid: marks_of(item) for item in session.items}
            write(self.folder / "marks.json", marks)

    def pytest_runtest_logreport(self, report: pytest.TestReport) -> None:
        if not dict(report.user_properties).get(LEDGER):
            return
        # Setup and teardown count: a test passes only when all three phases do.
        if report.outcome == "failed":
            self.outcomes[report.nodeid] = "failed"
        elif report.outcome == "skipped" or report.when == "call":
            self.outcomes.setdefault(report.nodeid, report.outcome)

    def pytest_sessionfinish(self) -> None:
        if self.outcomes:
            path = self.folder / "last_run.json"
            write(path, merge(read(path), self.outcomes))


def marks_of(item: pytest.Item) -> list[str]:
    """The rows and clauses a test is marked to show."""
    return [mark for found in item.iter_markers(LEDGER) for mark in found.args]


def read(path: Path) -> Outcomes:
    """The recorded outcomes, none when there is no readable file."""
    try:
        loaded: Outcomes = json.loads(path.read_text())
    except (OSError, ValueError):
        return {}
    # A file of an earlier form, by rows, holds no outcome at this depth.
    return {test: entry for test, entry in loaded.items() if "outcome" in entry}


def merge(known: Outcomes, outcomes: dict[str, str]) -> Outcomes:
    """`known` with this run's outcomes in place of older ones of the same tests."""
    today = datetime.date.today().isoformat()
    new = {test: {"outcome": end, "date": today} for test, end in outcomes.items()}
    return dict(sorted((known | new).items()))


def write(path: Path, content: Any) -> None:
    """Write in one piece: another run may be reading."""
    path.parent.mkdir(parents=True, exist_ok=True)
    handle, name = tempfile.mkstemp(dir=path.parent, suffix=".json")
    with os.fdopen(handle, "w") as file:
        json.dump(content, file, indent=1)
    os.replace(name, path)


def pytest_configure(config: pytest.Config) -> None:
    if not hasattr(config, "workerinput"):
        recorder = Recorder(config.rootpath / ".ledger")
        config.pluginmanager.register(recorder, "ledger-recorder")


@pytest.hookimpl(hookwrapper=True)
def pytest_runtest_makereport(item: pytest.Item) -> Generator[None, Any, None]:
    outcome = yield
    if marks_of(item):
        # user_properties is what xdist carries from a worker to the owner.
        outcome.get_result().user_properties.append((LEDGER, "marked"))
