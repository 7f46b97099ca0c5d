"""The ledger tells what tests showed, and nothing more."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parents[2]
TOOL = ROOT / "tools" / "ledger.py"

ENVIRONMENT = dict(os.environ, PYTHONPATH=str(ROOT / "tests"))

TESTS = """
import pytest

@pytest.mark.covers("AAA-01")
@pytest.mark.parametrize("n", [1, 2])
def test_works(n): pass

class TestGroup:
    pytestmark = pytest.mark.covers("AAA-02")
    def test_breaks(self): assert 1 == 2

@pytest.mark.covers("AAA-03")
def test_elsewhere(): pytest.skip("no such device")

def test_unmarked(): pass
"""


@pytest.fixture
def project(tmp_path: Path) -> Path:
    """A small project with six rows, tests on three of them, one measurement."""
    root = tmp_path / "project"
    for folder in ("tests", "docs", "benchmarks/results"):
        (root / folder).mkdir(parents=True)
    (root / "pytest.ini").write_text(
        "[pytest]\nmarkers =\n    covers(*rows): rows\ntestpaths = tests\n"
    )
    (root / "tests/conftest.py").write_text('pytest_plugins = ["ledger_plugin"]\n')
    (root / "tests/test_things.py").write_text(TESTS)
    (root / "docs/spec_rows.tsv").write_text(
        "AAA-01\tadds\t\nAAA-02\tdivides\t\nAAA-03\tflies\t\n"
        "AAA-04\tmeasured\t\nBBB-01\tlater\tdeferred\nBBB-02\tsoon\t\n"
    )
    (root / "benchmarks/results/speed.json").write_text(
        json.dumps({"covers": ["AAA-04"], "hardware": "a card", "date": "2030-01-02"})
    )
    return root


def run_tests(root: Path, *arguments: str) -> None:
    """Run the small project's tests with the recording plugin, in two processes."""
    subprocess.run(
        [sys.executable, "-m", "pytest", "-q", "-p", "no:cacheprovider", *arguments],
        cwd=root,
        env=ENVIRONMENT,
        capture_output=True,
        timeout=120,
    )


def write_ledger(root: Path) -> tuple[subprocess.CompletedProcess[str], dict[str, str]]:
    """Run the tool; also the status of every row in the page it wrote."""
    done = subprocess.run(
        [sys.executable, str(TOOL), "--root", str(root)],
        env=ENVIRONMENT,
        capture_output=True,
        text=True,
    )
    page = root / "docs/ledger.md"
    lines = page.read_text().splitlines() if page.exists() else []
    cells = [[cell.strip() for cell in line.split("|")] for line in lines]
    return done, {cell[1]: cell[3] for cell in cells if len(cell) == 6}


def test_each_row_has_the_status_its_tests_earned(project: Path) -> None:
    run_tests(project, "-n", "1")
    done, status = write_ledger(project)
    assert done.returncode == 1, "a failing row fails the command"
    assert "failing: AAA-02" in done.stderr
    assert "covered 2 of 6" in done.stdout
    assert {row: status[row] for row in status if row[3:4] == "-"} == {
        "AAA-01": "covered",
        "AAA-02": "failing",
        "AAA-03": "not run",
        "AAA-04": "covered",
        "BBB-01": "deferred",
        "BBB-02": "not yet",
    }
    page = (project / "docs/ledger.md").read_text()
    assert "tests/test_things.py::test_works" in page
    assert "a card, 2030-01-02" in page


def test_without_a_run_nothing_is_covered_by_tests(project: Path) -> None:
    done, status = write_ledger(project)
    assert done.returncode == 0
    assert status["AAA-01"] == "not run"
    assert status["AAA-04"] == "covered"


def test_runs_add_up_and_the_newest_outcome_wins(project: Path) -> None:
    run_tests(project)
    (project / "tests/test_things.py").write_text(TESTS.replace("1 == 2", "True"))
    run_tests(project, "-k", "breaks")
    done, status = write_ledger(project)
    assert done.returncode == 0
    assert (status["AAA-01"], status["AAA-02"]) == ("covered", "covered")


def test_a_case_that_is_gone_is_forgotten(project: Path) -> None:
    tests = TESTS.replace("def test_works(n): pass", "def test_works(n): assert n < 2")
    (project / "tests/test_things.py").write_text(tests)
    run_tests(project)
    assert write_ledger(project)[1]["AAA-01"] == "failing"
    (project / "tests/test_things.py").write_text(tests.replace("[1, 2]", "[1]"))
    assert write_ledger(project)[1]["AAA-01"] == "covered"


def test_a_removed_test_covers_nothing(project: Path) -> None:
    run_tests(project)
    (project / "tests/test_things.py").write_text("def test_unmarked(): pass\n")
    _, status = write_ledger(project)
    assert status["AAA-01"] == "not yet"


@pytest.mark.parametrize(
    ("rows", "complaint"),
    [('"ZZZ-09"', "no row ZZZ-09"), ('"AAA-01","AAA-02","AAA-03","AAA-04"', "4 rows")],
)
def test_wrong_marks_are_refused_by_name(
    project: Path, rows: str, complaint: str
) -> None:
    (project / "tests/test_wrong.py").write_text(
        f"import pytest\n@pytest.mark.covers({rows})\ndef test_it(): pass\n"
    )
    done, _ = write_ledger(project)
    assert done.returncode != 0
    assert "test_wrong.py::test_it" in done.stderr
    assert complaint in done.stderr


def test_the_committed_rows_are_those_of_the_specification(shared_data: Path) -> None:
    specification = shared_data.parent / "spec" / "features.md"
    if not specification.exists():
        pytest.skip("no ../shared/spec beside this checkout")
    rows = (ROOT / "docs" / "spec_rows.tsv").read_text().splitlines()
    full = specification.read_text()
    assert len(rows) == 448
    assert all(f"| {row.split(chr(9))[0]} |" in full for row in rows)
