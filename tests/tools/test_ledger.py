"""The ledger tells what tests showed, and nothing more."""

from __future__ import annotations

import importlib.util
import json
import re
import subprocess
import sys
import tomllib
from pathlib import Path

import pytest

from import_path import finding
from ledger_plugin import marks_of

ROOT = Path(__file__).resolve().parents[2]
TOOL = ROOT / "tools" / "ledger.py"

# Small projects need none of the installed plugins, and start faster without them.
ENVIRONMENT = finding(ROOT / "tests") | {"PYTEST_DISABLE_PLUGIN_AUTOLOAD": "1"}

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

CLAUSES = """
import pytest

@pytest.mark.covers("AAA-05: by hand", "AAA-06: fast")
def test_one(): pass

@pytest.mark.covers("AAA-05: by machine")
def test_other(): pass
"""


@pytest.fixture
def project(tmp_path: Path) -> Path:
    """A small project with eight rows, tests on three of them, one measurement."""
    root = tmp_path / "project"
    for folder in ("tests", "docs/internal", "benchmarks/results"):
        (root / folder).mkdir(parents=True)
    (root / "pytest.ini").write_text(
        "[pytest]\nmarkers =\n    covers(*rows): rows\ntestpaths = tests\n"
    )
    (root / "tests/conftest.py").write_text('pytest_plugins = ["ledger_plugin"]\n')
    (root / "tests/test_things.py").write_text(TESTS)
    (root / "docs/internal/spec_rows.tsv").write_text(
        "AAA-01\tadds\t\nAAA-02\tdivides\t\nAAA-03\tflies\t\n"
        "AAA-04\tmeasured\t\nAAA-05\tmade by hand or by machine\t\n"
        "AAA-06\tfast and small\t\nBBB-01\tlater\tdeferred\nBBB-02\tsoon\t\n"
    )
    (root / "docs/internal/spec_clauses.toml").write_text(
        'AAA-05 = ["by hand", "by machine"]\nAAA-06 = ["fast", "small"]\n'
    )
    (root / "benchmarks/results/speed.json").write_text(
        json.dumps({"covers": ["AAA-04"], "hardware": "a card", "date": "2030-01-02"})
    )
    return root


def run_tests(root: Path, *arguments: str) -> None:
    """Run the small project's tests with the recording plugin."""
    subprocess.run(
        [sys.executable, "-m", "pytest", "-q", "-p", "no:cacheprovider", *arguments],
        cwd=root,
        env=ENVIRONMENT,
        capture_output=True,
        timeout=280,
    )


def run_tool(root: Path, *arguments: str) -> subprocess.CompletedProcess[str]:
    """Run `tools/ledger.py` on a project."""
    return subprocess.run(
        [sys.executable, str(TOOL), "--root", str(root), *arguments],
        env=ENVIRONMENT,
        capture_output=True,
        text=True,
    )


def write_ledger(root: Path) -> tuple[subprocess.CompletedProcess[str], dict[str, str]]:
    """Run the tool; also the status of every row in the page it wrote."""
    done = run_tool(root)
    return done, {row: cells[0] for row, cells in page_of(root).items()}


def page_of(root: Path) -> dict[str, tuple[str, str]]:
    """Row -> (status, what shows it) in the page that was written."""
    page = root / "docs/internal/ledger.md"
    lines = page.read_text().splitlines() if page.exists() else []
    cells = [[cell.strip() for cell in line.split("|")] for line in lines]
    return {
        cell[1]: (cell[3], cell[4])
        for cell in cells
        if len(cell) == 6 and re.fullmatch(r"[A-Z]{3}-\d\d", cell[1])
    }


def test_each_row_has_the_status_its_tests_earned(project: Path) -> None:
    run_tests(project, "-p", "xdist", "-n", "1")
    done, status = write_ledger(project)
    assert done.returncode == 1, "a failing row fails the command"
    assert "failing: AAA-02" in done.stderr
    assert "shown 2, part 0 of 8" in done.stdout
    assert status == {
        "AAA-01": "shown",
        "AAA-02": "failing",
        "AAA-03": "not run",
        "AAA-04": "shown",
        "AAA-05": "open",
        "AAA-06": "open",
        "BBB-01": "deferred",
        "BBB-02": "open",
    }
    page = (project / "docs/internal/ledger.md").read_text()
    assert "tests/test_things.py::test_works" in page
    assert "a card, 2030-01-02" in page


def test_a_row_is_shown_when_each_of_its_clauses_is(project: Path) -> None:
    (project / "tests/test_things.py").write_text(CLAUSES)
    run_tests(project)
    done, status = write_ledger(project)
    assert done.returncode == 0, done.stderr
    assert "shown 2, part 1 of 8" in done.stdout
    assert (status["AAA-05"], status["AAA-06"]) == ("shown", "part")
    part = page_of(project)["AAA-06"][1]
    assert "Missing: small" in part
    assert re.search(r"fast: `tests/test_things.py::test_one` \(passed, [-\d]+\)", part)
    assert "Missing" not in page_of(project)["AAA-05"][1]


@pytest.mark.parametrize(
    ("broken", "expected"),
    [
        ("def test_other(): assert False", ("failing", "by machine: ")),
        (
            "def test_other(): pytest.skip('no device')",
            ("part", "Missing: by machine (not run)"),
        ),
    ],
)
def test_a_clause_that_did_not_pass_is_not_shown(
    project: Path, broken: str, expected: tuple[str, str]
) -> None:
    tests = CLAUSES.replace("def test_other(): pass", broken)
    (project / "tests/test_things.py").write_text(tests)
    run_tests(project)
    write_ledger(project)
    status, shown_by = page_of(project)["AAA-05"]
    assert status == expected[0]
    assert expected[1] in shown_by


INDIRECT = {
    "a list": "pytestmark = [pytest.mark.slow, pytest.mark.covers('AAA-01')]\n"
    "def test_it(): pass",
    "a variable": "mark = pytest.mark.covers('AAA-01')\n@mark\ndef test_it(): pass",
    "a class": "@pytest.mark.covers('AAA-01')\nclass TestIt:\n"
    "    def test_it(self): pass",
    "a parent class": "@pytest.mark.covers('AAA-01')\nclass Base:\n"
    "    def test_it(self): pass\nclass TestIt(Base): pass",
    "a helper of cases": "def case(n, *rows):\n"
    "    return pytest.param(n, marks=pytest.mark.covers(*rows))\n"
    "@pytest.mark.parametrize('n', [case(1, 'AAA-01'), 2])\ndef test_it(n): pass",
}


@pytest.mark.parametrize("way", INDIRECT)
def test_a_mark_is_seen_however_it_reaches_a_test(project: Path, way: str) -> None:
    ini = project / "pytest.ini"
    ini.write_text(ini.read_text().replace("testpaths", "    slow: slow\ntestpaths"))
    (project / "tests/test_things.py").write_text("import pytest\n" + INDIRECT[way])
    run_tests(project)
    done, status = write_ledger(project)
    assert done.returncode == 0, done.stderr
    assert status["AAA-01"] == "shown"


def test_a_case_shows_what_it_alone_is_marked_for(project: Path) -> None:
    """The other cases of its function say nothing about the row."""
    (project / "tests/test_things.py").write_text(
        "import pytest\n"
        "mine = pytest.param(1, marks=pytest.mark.covers('AAA-01'))\n"
        "@pytest.mark.parametrize('n', [mine, 2])\n"
        "@pytest.mark.covers('AAA-02')\n"
        "def test_it(n): assert n == 1\n"
    )
    run_tests(project)
    _, status = write_ledger(project)
    assert (status["AAA-01"], status["AAA-02"]) == ("shown", "failing")
    assert "test_it[1]`" in page_of(project)["AAA-01"][1]


def test_without_a_run_nothing_is_shown_by_tests(project: Path) -> None:
    done, status = write_ledger(project)
    assert done.returncode == 0
    assert status["AAA-01"] == "not run"
    assert status["AAA-04"] == "shown"


def test_runs_add_up_and_the_newest_outcome_wins(project: Path) -> None:
    run_tests(project)
    (project / "tests/test_things.py").write_text(TESTS.replace("1 == 2", "True"))
    run_tests(project, "-k", "breaks")
    done, status = write_ledger(project)
    assert done.returncode == 0
    assert (status["AAA-01"], status["AAA-02"]) == ("shown", "shown")


def test_a_case_that_is_gone_is_forgotten(project: Path) -> None:
    tests = TESTS.replace("def test_works(n): pass", "def test_works(n): assert n < 2")
    (project / "tests/test_things.py").write_text(tests)
    run_tests(project)
    assert write_ledger(project)[1]["AAA-01"] == "failing"
    (project / "tests/test_things.py").write_text(tests.replace("[1, 2]", "[1]"))
    assert write_ledger(project)[1]["AAA-01"] == "shown"


def test_a_removed_test_shows_nothing(project: Path) -> None:
    run_tests(project)
    (project / "tests/test_things.py").write_text("def test_unmarked(): pass\n")
    _, status = write_ledger(project)
    assert status["AAA-01"] == "open"


@pytest.mark.parametrize(
    ("rows", "complaint"),
    [
        ('"ZZZ-09"', "no row ZZZ-09"),
        ('"AAA-01","AAA-02","AAA-03","AAA-04"', "4 rows, at most 3"),
        ('"AAA-05"', "AAA-05 names no clause; there are: by hand; by machine"),
        ('"AAA-05: by magic"', "AAA-05 no clause 'by magic'; there are: by hand"),
        ('"AAA-01: all of it"', "AAA-01 has no clauses"),
    ],
)
def test_wrong_marks_are_refused_by_name(
    project: Path, rows: str, complaint: str
) -> None:
    (project / "tests/test_wrong.py").write_text(
        f"import pytest\n@pytest.mark.covers({rows})\ndef test_it(): pass\n"
    )
    done = run_tool(project, "--check")
    assert done.returncode != 0
    assert "test_wrong.py::test_it" in done.stderr
    assert complaint in done.stderr


def test_a_measurement_names_a_clause_too(project: Path) -> None:
    result = project / "benchmarks/results/speed.json"
    result.write_text(json.dumps({"covers": ["AAA-05"], "date": "2030-01-02"}))
    assert "AAA-05 names no clause" in run_tool(project, "--check").stderr
    result.write_text(json.dumps({"covers": ["AAA-05: by hand"]}))
    assert write_ledger(project)[1]["AAA-05"] == "part"


@pytest.mark.parametrize(
    ("table", "complaint"),
    [
        ('AAA-09 = ["one", "two"]', "rows that do not exist: AAA-09"),
        ('AAA-05 = ["one"]', "AAA-05 needs two or more"),
        ('AAA-05 = ["one", "one"]', "AAA-05 needs two or more different"),
    ],
)
def test_a_wrong_table_of_clauses_is_refused(
    project: Path, table: str, complaint: str
) -> None:
    (project / "docs/internal/spec_clauses.toml").write_text(table)
    done = run_tool(project, "--check")
    assert done.returncode != 0
    assert complaint in done.stderr


def test_looking_at_the_marks_alone_writes_no_page(project: Path) -> None:
    done = run_tool(project, "--check")
    assert (done.returncode, done.stdout) == (0, "")
    assert not (project / "docs/internal/ledger.md").exists()


def test_no_page_is_written_of_wrong_marks(project: Path) -> None:
    (project / "tests/test_things.py").write_text(TESTS.replace("AAA-03", "AAA-30"))
    assert run_tool(project).returncode != 0
    assert not (project / "docs/internal/ledger.md").exists()


def test_every_mark_of_ours_names_a_row_and_a_clause_there_is(
    request: pytest.FixtureRequest, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Of the tests collected with this one; `make lint` looks at all there are."""
    spec = importlib.util.spec_from_file_location("ledger_tool", TOOL)
    assert spec is not None and spec.loader is not None
    tool = importlib.util.module_from_spec(spec)
    monkeypatch.setitem(sys.modules, "ledger_tool", tool)
    spec.loader.exec_module(tool)
    clauses = tool.read_clauses(ROOT / "docs/internal/spec_clauses.toml")
    rows = tool.read_rows(ROOT / "docs/internal/spec_rows.tsv", clauses)
    marks = {item.nodeid: marks_of(item) for item in request.session.items}
    assert tool.problems(marks, rows) == []


@pytest.fixture
def specification(shared_data: Path) -> dict[str, str]:
    """Row -> its full wording."""
    path = shared_data.parent / "spec" / "features.md"
    if not path.exists():
        pytest.skip("no ../shared/spec beside this checkout")
    found = re.findall(
        r"^\| ([A-Z]{3}-\d\d) \| (.+?) \| [^|]*\|$", path.read_text(), re.M
    )
    return dict(found)


def test_the_committed_rows_are_those_of_the_specification(
    specification: dict[str, str],
) -> None:
    rows = (ROOT / "docs/internal/spec_rows.tsv").read_text().splitlines()
    assert len(rows) == 448
    assert [row.split("\t")[0] for row in rows] == list(specification)


def test_clauses_are_made_of_the_words_of_their_row(
    specification: dict[str, str],
) -> None:
    table = tomllib.loads((ROOT / "docs/internal/spec_clauses.toml").read_text())

    def words(text: str) -> set[str]:
        return set(re.findall(r"[a-z0-9.%]+[a-z0-9%]|[a-z0-9]", text.lower()))

    foreign = {
        f"{row}: {clause}": sorted(extra)
        for row, clauses in table.items()
        for clause in clauses
        if (extra := words(clause) - words(specification[row]))
    }
    assert foreign == {}
