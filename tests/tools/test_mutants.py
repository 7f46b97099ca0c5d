"""The mutation runner tells killed from survived, and what is neither from both."""

from __future__ import annotations

import os
import subprocess
import sys
import tomllib
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parents[2]
TOOL = ROOT / "tools" / "mutants.py"
# The small projects need one of the installed plugins, and start faster without others.
ENVIRONMENT = os.environ | {
    "PYTEST_DISABLE_PLUGIN_AUTOLOAD": "1",
    "PYTEST_PLUGINS": "pytest_timeout",
}
LISTS = [path.name for path in sorted((ROOT / "tools").glob("mutants*.toml"))]

SOURCE = "def twice(n):\n    return 2 * n\n"
TESTS = """
import lumina_like

def test_two():
    assert lumina_like.twice(2) == 4

def test_zero():
    assert lumina_like.twice(0) == 0
"""
ENTRY = """
[[mutant]]
id = "{id}"
what = "wrong"
file = "src/lumina_like.py"
old = "{old}"
new = "{new}"
"""
KILLED = ENTRY.format(id="K1", old="2 * n", new="3 * n") + 'tests = ["tests"]\n'


@pytest.fixture
def root(tmp_path):
    (tmp_path / "src").mkdir()
    (tmp_path / "src" / "lumina_like.py").write_text(SOURCE)
    (tmp_path / "tests").mkdir()
    (tmp_path / "tests" / "test_it.py").write_text(TESTS)
    return tmp_path


def judge(root, listed, *words):
    (root / "list.toml").write_text(listed)
    command = ["run", "--root", root, "--list", root / "list.toml"]
    done = subprocess.run(
        [sys.executable, TOOL, *command, *words],
        capture_output=True,
        text=True,
        env=ENVIRONMENT,
    )
    assert (root / "src" / "lumina_like.py").read_text() == SOURCE
    return done.returncode, done.stdout + done.stderr


def test_a_mutant_that_a_test_notices_is_killed(root):
    code, told = judge(root, KILLED)
    assert code == 0, told
    assert "killed      K1 (wrong): tests/test_it.py::test_two" in told
    assert "1 of 1 killed" in told


def test_a_verdict_is_kept_until_something_changes(root):
    code, told = judge(root, KILLED, "--within", "0")
    assert code == 3 and "time was over" in told
    assert judge(root, KILLED)[0] == 0
    code, told = judge(root, KILLED, "--within", "0")
    assert code == 0 and "1 of 1 killed" in told and "K1" not in told
    for words in (KILLED, "--again"), (KILLED.replace("3 * n", "5 * n"),):
        code, told = judge(root, *words, "--within", "0")
        assert code == 3 and "time was over" in told
    (root / "tests" / "test_it.py").write_text(TESTS + "\n")
    assert judge(root, KILLED, "--within", "0")[0] == 3


def test_a_mutant_whose_tests_are_skipped_is_not_judged(root):
    tests = "import pytest\n\ndef test_two(): pytest.skip('needs more')\n"
    (root / "tests" / "test_it.py").write_text(tests)
    code, told = judge(root, KILLED)
    assert code == 1 and "all its tests are skipped here" in told


@pytest.mark.thorough
def test_a_survivor_fails_the_run(root):
    entry = ENTRY.format(id="S1", old="2 * n", new="3 * n")
    entry += 'tests = ["tests/test_it.py::test_zero"]\n'
    code, told = judge(root, KILLED + entry, "--jobs", "2")
    assert code == 1
    assert "survived    S1 (wrong): tests/test_it.py::test_zero" in told
    assert "1 of 2 killed" in told
    code, told = judge(root, KILLED + entry, "K1")
    assert code == 0 and "S1" not in told


def test_an_equivalent_mutant_is_listed_and_not_run(root):
    entry = ENTRY.format(id="E1", old="2 * n", new="n * 2")
    code, told = judge(root, KILLED + entry + 'reason = "2 n is n 2"\n')
    assert code == 0
    assert "equivalent  E1 (wrong): 2 n is n 2" in told and "1 of 1 killed" in told


@pytest.mark.parametrize(
    ("old", "new", "tests", "said"),
    [
        ("4 * n", "5 * n", "tests", "occurs 0 times"),
        ("n", "m", "tests", "occurs 3 times"),
        ("2 * n", "2 * n", "tests", "changes nothing"),
        ("def twice", "not python", "tests", "SyntaxError"),
    ],
)
def test_what_cannot_be_judged_is_not_killed(root, old, new, tests, said):
    entry = ENTRY.format(id="X1", old=old, new=new) + f'tests = ["{tests}"]\n'
    code, told = judge(root, entry)
    assert code == 1
    assert "error       X1" in told and said in told and "0 of 1 killed" in told


def test_tests_that_fail_anyway_kill_nothing(root):
    (root / "tests" / "test_it.py").write_text("def test_no(): assert False\n")
    code, told = judge(root, KILLED)
    assert code == 1
    assert "do not pass on the unchanged source" in told and "killed" not in told


def test_a_mutant_needs_tests_or_a_reason(root):
    code, told = judge(root, ENTRY.format(id="N1", old="2", new="3"))
    assert code != 0 and "N1 needs either tests or a reason" in told


def listed(*names):
    for name in names:
        yield from tomllib.loads((ROOT / "tools" / name).read_text())["mutant"]


def test_every_listed_mutant_still_fits_the_source():
    texts, gone = {}, []
    for mutant in listed(*LISTS):
        path = ROOT / mutant["file"]
        if path not in texts:
            texts[path] = path.read_text() if path.exists() else ""
        if texts[path].count(mutant["old"]) != 1 or mutant["old"] == mutant["new"]:
            gone.append(mutant["id"])
    assert not gone, f"draw again, or mend by hand: {gone}"


def test_every_listed_mutant_has_tests_that_exist_or_a_reason():
    texts, gone = {}, []
    for mutant in listed(*LISTS):
        assert bool(mutant.get("tests")) != bool(mutant.get("reason")), mutant["id"]
        for test in mutant.get("tests", ()):
            path, _, name = test.partition("::")
            if path not in texts:
                text = (ROOT / path).read_text() if (ROOT / path).is_file() else ""
                texts[path] = text
            name = name.rpartition("::")[2].partition("[")[0]
            if f"def {name}" not in texts[path] and not (ROOT / path).is_dir():
                gone.append((mutant["id"], test))
    assert not gone
