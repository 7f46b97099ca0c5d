"""Records which tests reach which line of the source: for the draw of mutants.

Every test file runs once, under coverage, and leaves one JSON file; a file whose tests
and reached sources have not changed since is not run again. What runs in a child
process of a test is not seen.

This module is also the pytest plugin that does the recording.
"""

from __future__ import annotations

import hashlib
import json
import os
import subprocess
import sys
from collections.abc import Generator
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pytest

RECORD = "MUTANTS_RECORD"
"""Environment variable: the file that the plugin writes."""

SETUP = "setup"
"""Context of what runs while fixtures are made: it may serve every test of the file."""

QUICK = "not thorough and not faults and not slow and not gpu and not multigpu"


@dataclass(frozen=True)
class Reached:
    """The tests that reach lines of the source.

    Attributes:
        seconds: of each test that passed, by node id.
        lines: source file -> line -> node ids of the tests that run it.
    """

    seconds: dict[str, float]
    lines: dict[str, dict[int, set[str]]]

    def tests(self, file: str, first: int, last: int) -> list[str]:
        """Tests that run any of the lines: of the same name first, then quick ones."""
        found: set[str] = set()
        for line in range(first, last + 1):
            found |= self.lines.get(file, {}).get(line, set())
        own = f"test_{Path(file).name}"
        return sorted(found, key=lambda t: (own not in t, self.seconds[t], t))


def digest(path: Path) -> str:
    """Of a file's bytes; empty when there is no such file."""
    return hashlib.sha256(path.read_bytes()).hexdigest()[:16] if path.is_file() else ""


def record_path(folder: Path, test_file: str) -> Path:
    """Where the record of a test file lies."""
    return folder / (test_file.replace("/", "-") + ".json")


def is_current(root: Path, folder: Path, test_file: str) -> bool:
    """Whether a test file has a record of its present text and sources."""
    path = record_path(folder, test_file)
    if not path.is_file():
        return False
    digests = json.loads(path.read_text())["digests"]
    return all(digest(root / name) == known for name, known in digests.items())


def record(root: Path, folder: Path, test_file: str) -> str:
    """Run a test file under coverage.

    Returns:
        The last line that pytest printed.
    """
    folder.mkdir(parents=True, exist_ok=True)
    path = [str(root / "src"), str(Path(__file__).parent)]
    path += filter(None, [os.environ.get("PYTHONPATH")])
    environment = os.environ | {
        "PYTHONPATH": os.pathsep.join(path),
        "OMP_NUM_THREADS": "1",
        RECORD: str(record_path(folder, test_file)),
    }
    words = ["-q", "-p", "mutants_map", "-p", "no:cacheprovider", "-m", QUICK]
    done = subprocess.run(
        [sys.executable, "-m", "pytest", *words, test_file],
        cwd=root,
        env=environment,
        text=True,
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
    )
    return (done.stdout.splitlines() or [""])[-1]


def tests_of(path: Path) -> list[Path]:
    """Test files below a folder; or the one that is named."""
    return [path] if path.suffix == ".py" else sorted(path.rglob("test_*.py"))


def record_all(root: Path, folder: Path, folders: list[str], jobs: int) -> None:
    """Record the test files below folders, or named, that have no current record."""
    files = [
        path.relative_to(root).as_posix()
        for name in folders
        for path in tests_of(root / name)
    ]
    stale = [file for file in files if not is_current(root, folder, file)]
    with ThreadPoolExecutor(jobs) as pool:
        for file, told in zip(
            stale, pool.map(lambda f: record(root, folder, f), stale), strict=True
        ):
            print(f"{file}: {told}", flush=True)


def read(root: Path, folder: Path) -> Reached:
    """All records, without the lines of sources that have changed since."""
    seconds: dict[str, float] = {}
    lines: dict[str, dict[int, set[str]]] = {}
    for path in sorted(folder.glob("*.json")):
        entry = json.loads(path.read_text())
        passed = entry["seconds"]
        seconds |= passed
        for file, by_line in entry["lines"].items():
            if digest(root / file) != entry["digests"][file]:
                continue
            known = lines.setdefault(file, {})
            for line, contexts in by_line.items():
                named = [entry["contexts"][n] for n in contexts]
                tests = passed if SETUP in named else [t for t in named if t in passed]
                known.setdefault(int(line), set()).update(tests)
    return Reached(seconds, lines)


class Recorder:
    """Measures a run of pytest and writes what each test reached."""

    def __init__(self, root: Path, out: Path) -> None:
        import coverage

        self.root, self.out = root, out
        self.coverage = coverage.Coverage(
            data_file=None, source=[str(root / "src")], config_file=False
        )
        self.coverage.start()
        self.seconds: dict[str, float] = {}
        self.bad: set[str] = set()
        self.files: set[str] = set()

    @pytest.hookimpl(hookwrapper=True)
    def pytest_runtest_setup(self) -> Generator[None, Any, None]:
        """Fixtures may be of a whole file."""
        self.coverage.switch_context(SETUP)
        yield

    @pytest.hookimpl(hookwrapper=True)
    def pytest_runtest_call(self, item: pytest.Item) -> Generator[None, Any, None]:
        """The test itself."""
        self.coverage.switch_context(item.nodeid)
        yield
        self.coverage.switch_context(SETUP)

    def pytest_runtest_logreport(self, report: pytest.TestReport) -> None:
        """Only a test that passes can notice a mutant."""
        self.files.add(report.nodeid.split("::")[0])
        taken = self.seconds.get(report.nodeid, 0.0) + report.duration
        self.seconds[report.nodeid] = round(taken, 3)
        if report.outcome != "passed":
            self.bad.add(report.nodeid)

    def pytest_sessionfinish(self) -> None:
        """Write the record."""
        self.coverage.stop()
        data = self.coverage.get_data()
        numbers: dict[str, int] = {}
        lines = {}
        for measured in data.measured_files():
            file = Path(measured).relative_to(self.root).as_posix()
            lines[file] = {
                line: sorted(numbers.setdefault(c, len(numbers)) for c in contexts if c)
                for line, contexts in data.contexts_by_lineno(measured).items()
                if any(contexts)
            }
        lines = {file: found for file, found in sorted(lines.items()) if found}
        record = {
            "digests": {f: digest(self.root / f) for f in [*self.files, *lines]},
            "seconds": {t: s for t, s in self.seconds.items() if t not in self.bad},
            "contexts": list(numbers),
            "lines": lines,
        }
        waiting = self.out.with_suffix(".part")
        waiting.write_text(json.dumps(record))
        waiting.replace(self.out)


def pytest_configure(config: pytest.Config) -> None:
    """Record where that was asked for."""
    if (out := os.environ.get(RECORD)) and not hasattr(config, "workerinput"):
        recorder = Recorder(config.rootpath, Path(out))
        config.pluginmanager.register(recorder, "mutants-recorder")
