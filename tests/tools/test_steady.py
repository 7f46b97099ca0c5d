"""tools/steady.py notes every run, names what failed, and goes on where it was."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from pathlib import Path

from training import wait_until

TOOL = Path(__file__).parents[2] / "tools" / "steady.py"
# One of them fails when it is run for the third time.
TESTS = """
from pathlib import Path

def test_steady(): pass

def test_unsteady():
    runs = Path(__file__).with_name("runs")
    count = int(runs.read_text()) if runs.exists() else 0
    runs.write_text(str(count + 1))
    assert count != 2
"""
ENVIRONMENT = os.environ | {"PYTEST_DISABLE_PLUGIN_AUTOLOAD": "1"}
SETTINGS = """
[pytest]
markers =
    slow
    gpu
    multigpu
    thorough
    faults
"""
# The second goes on until the run is interrupted.
ENDLESS = """
import time
from pathlib import Path

def test_wrong(): assert False

def test_endless():
    Path(__file__).with_name("begun").touch()
    while True:
        time.sleep(0.01)
"""


def steady(root: Path, *arguments: str) -> subprocess.CompletedProcess[str]:
    words = [sys.executable, str(TOOL), "--root", str(root), "--jobs", "1", *arguments]
    return subprocess.run(words, env=ENVIRONMENT, capture_output=True, text=True)


def test_runs_add_up_and_a_failure_is_named(tmp_path: Path) -> None:
    (tmp_path / "test_things.py").write_text(TESTS)
    (tmp_path / "pytest.ini").write_text(SETTINGS)
    first = steady(tmp_path, "--runs", "2", "--load", "1")
    assert first.returncode == 0, first.stdout + first.stderr
    assert "none failed" in first.stdout
    more = steady(tmp_path, "--runs", "3", "--load", "1")
    assert more.returncode == 1
    assert "1 failed" in more.stdout
    file = tmp_path / ".steady" / "runs.jsonl"
    lines = [json.loads(line) for line in file.read_text().splitlines()]
    assert [line["run"] for line in lines] == [1, 2, 3]
    assert [line["loaded"] for line in lines] == [False, True, False]
    assert [line["tests_run"] for line in lines] == [2, 2, 2]
    assert [line["failed"] for line in lines] == [
        [],
        [],
        ["test_things::test_unsteady"],
    ]
    assert (tmp_path / ".steady" / "run-3.txt").exists()
    assert not (tmp_path / ".steady" / "run-2.txt").exists()


def test_a_run_that_is_stopped_tells_what_failed_and_does_not_count(
    tmp_path: Path,
) -> None:
    (tmp_path / "test_things.py").write_text(ENDLESS)
    (tmp_path / "pytest.ini").write_text(SETTINGS)
    there = tmp_path / "there"
    words = [sys.executable, str(TOOL), "--root", str(tmp_path), "--jobs", "1"]
    words += ["--runs", "1", "--copy", str(there)]
    with subprocess.Popen(
        words, env=ENVIRONMENT, stdout=subprocess.PIPE, text=True
    ) as process:
        wait_until((tmp_path / "begun").exists)
        process.terminate()
        told, _ = process.communicate()
    assert process.returncode == 1, told
    assert "0 runs" in told
    (line,) = map(json.loads, (there / "runs.jsonl").read_text().splitlines())
    assert line["stopped"]
    assert line["failed"] == ["test_things::test_wrong"]
    assert "test_wrong" in (there / "run-1.txt").read_text()


def test_no_run_is_begun_that_would_not_be_over_in_time(tmp_path: Path) -> None:
    (tmp_path / "test_things.py").write_text(TESTS)
    (tmp_path / "pytest.ini").write_text(SETTINGS)
    done = steady(tmp_path, "--runs", "1", "--within", "1")
    assert done.returncode == 3, done.stdout + done.stderr
    assert not (tmp_path / "runs").exists()


def test_the_quick_tests_are_the_same_everywhere() -> None:
    sys.path.insert(0, str(TOOL.parent))
    try:
        import covered
    finally:
        sys.path.remove(str(TOOL.parent))
    makefile = (TOOL.parents[1] / "Makefile").read_text()
    assert f'QUICK := "{covered.QUICK}"' in makefile
