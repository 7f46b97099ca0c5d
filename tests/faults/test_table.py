"""The table of faults: what is declared is there, distinct, and on the page."""

from __future__ import annotations

import importlib.util
import re
import subprocess
import sys
from pathlib import Path

import pytest

from mechanisms import COMPONENTS, RECOVERIES

ROOT = Path(__file__).parents[2]


def _tool():
    spec = importlib.util.spec_from_file_location("faults", ROOT / "tools/faults.py")
    module = importlib.util.module_from_spec(spec)
    sys.modules["faults"] = module  # where its dataclass looks for its names
    spec.loader.exec_module(module)
    return module


faults = _tool()
FOUND = faults.declarations()


def test_there_are_forty_and_twenty_five_of_them_are_real():
    assert len(FOUND) >= 40 and sum(one.real for one in FOUND) >= 25


def test_no_two_are_the_same():
    for key in ("name", "failure"):
        values = [getattr(one, key) for one in FOUND]
        twice = {value for value in values if values.count(value) > 1}
        assert not twice, (key, twice)
    causes = [(one.test, one.case) for one in FOUND]
    assert len(set(causes)) == len(causes)
    assert {one.component for one in FOUND} <= set(COMPONENTS)
    assert {one.recovery for one in FOUND} <= set(RECOVERIES)


def test_the_page_has_the_table_and_every_kind_of_recovery():
    check = [sys.executable, "tools/faults.py", "--check"]
    done = subprocess.run(check, cwd=ROOT, capture_output=True, text=True)
    assert done.returncode == 0, done.stdout
    before = faults.PAGE.read_text().split(faults.BEGIN)[0]
    for recovery in {one.recovery for one in FOUND}:
        assert f"| {recovery} |" in before, recovery


def test_what_is_declared_is_a_test_with_such_a_case():
    for one in FOUND:
        file, name = one.test.split("::")
        assert name.startswith("test_") and not {"skip", "xfail"} & set(one.marks), one
        text = (ROOT / "tests" / file).read_text()
        for word in re.split(r"[-/]", one.case or ""):
            assert word in text, (one.name, word)


@pytest.mark.thorough
def test_each_declaration_selects_a_test():
    """As pytest names the cases; and each test in this folder is in the table."""
    command = [
        sys.executable,
        "-m",
        "pytest",
        "--collect-only",
        "-q",
        "-m",
        "mechanism",
    ]
    command += ["-p", "no:cacheprovider", "tests"]
    done = subprocess.run(command, cwd=ROOT, capture_output=True, text=True)
    names = [line for line in done.stdout.splitlines() if "::" in line]
    for one in FOUND:
        mine = [name for name in names if name.startswith(f"tests/{one.test}")]
        cases = [name.partition("[")[2] for name in mine]
        assert mine, one
        assert one.case is None or any(one.case in case for case in cases), one
    here = {name.partition("[")[0] for name in names if "tests/faults/" in name}
    assert here <= {f"tests/{one.test}" for one in FOUND}
