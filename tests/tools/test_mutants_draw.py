"""Mutants are drawn from what tests reach, by a seed, and hunted with those tests."""

from __future__ import annotations

import ast
import os
import subprocess
import sys
import tomllib
from pathlib import Path

import pytest

TOOLS = Path(__file__).resolve().parents[2] / "tools"
# The small projects need one of the installed plugins, and start faster without others.
ENVIRONMENT = os.environ | {
    "PYTEST_DISABLE_PLUGIN_AUTOLOAD": "1",
    "PYTEST_PLUGINS": "pytest_timeout",
}

SOURCE = '''
"""One < two."""

LIMIT = 3


def clip(value: float, least: int = 0) -> float:
    """Not below 0, and not above LIMIT."""
    if value < least or value is None:
        return 0.0
    return min(value, LIMIT)


def ready(n: int) -> bool:
    return not n


def unreached(n):
    return n + 1


class Box:
    def __init__(self):
        self.held = []

    def put(self, one):
        if one in self.held:
            raise ValueError(f"{1 + 1} of {one}" + "!" * 2)
        self.held.append(one)
        print(1 + 1)

    def __repr__(self):
        return "Box" * 2
'''
TESTS = """
from lumina.data import clipping

def test_clip():
    assert [clipping.clip(n) for n in (-1, 1, 5)] == [0, 1, 3]

def test_box():
    box = clipping.Box()
    box.put(1)
"""


@pytest.fixture
def root(tmp_path):
    for folder in ("src/lumina/data", "tests/data", "tools"):
        (tmp_path / folder).mkdir(parents=True)
    (tmp_path / "src/lumina/__init__.py").write_text("")
    (tmp_path / "src/lumina/data/clipping.py").write_text(SOURCE)
    (tmp_path / "tests/data/test_clipping.py").write_text(TESTS)
    return tmp_path


def call(root, command, *words):
    done = subprocess.run(
        [sys.executable, TOOLS / "mutants.py", command, "--root", root, *words],
        capture_output=True,
        text=True,
        env=ENVIRONMENT,
    )
    return done.returncode, done.stdout + done.stderr


def sites(text):
    code = (
        "import sys; sys.path.insert(0, sys.argv[1]); import mutants_sites\n"
        "finder = mutants_sites.Finder('f.py', text := sys.stdin.read())\n"
        "finder.visit(mutants_sites.ast.parse(text))\n"
        "print([(s.function, s.what.split(': ', 1)[1], s.old, s.new)"
        " for s in finder.sites])"
    )
    done = subprocess.run(
        [sys.executable, "-c", code, TOOLS], input=text, capture_output=True, text=True
    )
    assert done.returncode == 0, done.stderr
    return ast.literal_eval(done.stdout)


def test_each_site_is_one_small_change_of_what_runs():
    found = sites(SOURCE)
    for _, _, old, new in found:
        assert SOURCE.count(old) == 1
        ast.parse(SOURCE.replace(old, new))
    assert {(function, what) for function, what, _, _ in found} == {
        ("clip", "< → <="),
        ("clip", "or → and"),
        ("clip", "is → is not"),
        ("clip", "0.0 → 1.0"),
        ("clip", "returns (…) + 1.0"),
        ("clip", "min → max"),
        ("ready", "returns not (…)"),
        ("ready", "without not"),
        ("unreached", "+ → -"),
        ("unreached", "1 → 2"),
        ("Box.__init__", "without self.held = []"),
        ("Box.put", "in → not in"),
        ("Box.put", "without self.held.append(one)"),
    }


def test_every_group_names_what_is_there():
    text = (TOOLS / "mutants_groups.py").read_text()
    table = text.split("GROUPS = ")[1].split("\n}\n")[0] + "\n}"
    for groups in ast.literal_eval(table).values():
        for names in groups.values():
            for name in names:
                assert (TOOLS.parent / "src" / "lumina" / name).exists(), name


def test_a_change_takes_lines_along_until_its_text_is_unique():
    text = "def f(a):\n    b = a + 1\n    return b\n\n\ndef g(a):\n    b = a + 1\n"
    pairs = [(old, new) for function, _, old, new in sites(text) if function == "g"]
    assert pairs == [
        ("def g(a):\n    b = a + 1\n", "def g(a):\n    b = a - 1\n"),
        ("def g(a):\n    b = a + 1\n", "def g(a):\n    b = a + 2\n"),
    ]


def test_lines_that_a_commit_did_not_have_are_told(tmp_path):
    def git(*words):
        named = ["-c", "user.name=a", "-c", "user.email=a@b"]
        subprocess.run(["git", "-C", tmp_path, *named, *words], check=True)

    path = tmp_path / "f.py"
    path.write_text("a\nb\nc\nd\n")
    git("init", "-q")
    git("add", "f.py")
    git("commit", "-q", "-m", "first")
    path.write_text("a\nB\nd\ne\nf\n")  # c is gone: that is no line of the file
    code = (
        "import sys; sys.path.insert(0, sys.argv[1]); import mutants_groups, pathlib\n"
        "root = pathlib.Path(sys.argv[2])\n"
        "print(sorted(mutants_groups.changed_lines(root, 'f.py', 'HEAD')))"
    )
    done = subprocess.run(
        [sys.executable, "-c", code, TOOLS, tmp_path], capture_output=True, text=True
    )
    assert done.stdout == "[2, 4, 5]\n", done.stderr


@pytest.mark.thorough
def test_drawn_mutants_are_hunted_and_settled(root):
    code, told = call(root, "map")
    assert code == 0 and "2 passed" in told
    assert call(root, "map") == (0, ""), "nothing has changed"
    drawn = root / "tools" / "mutants-seed.toml"
    assert call(root, "draw", "--seed", "7", "--count", "60")[0] == 0
    first = drawn.read_text()
    assert call(root, "draw", "--seed", "7", "--count", "60")[0] == 0
    assert drawn.read_text() == first, "the seed decides"
    listed = tomllib.loads(first)
    assert listed["seed"] == 7 and listed["groups"] == "rooms"
    whats = [mutant["what"] for mutant in listed["mutant"]]
    assert len(whats) == 6, "one mistake a line that is reached"
    assert not any("ready" in what or "unreached" in what for what in whats)

    code, told = call(root, "hunt", "--jobs", "2")
    assert code == 1
    assert "survived" in told and "without self.held.append(one)" in told
    after = tomllib.loads(drawn.read_text())["mutant"]
    left = [mutant["what"] for mutant in after if not mutant.get("tests")]
    assert "1 of 6 are left" in told or len(left) > 1
    assert any("held.append" in what for what in left)
    assert all(
        mutant["tests"] == ["tests/data/test_clipping.py::test_clip"]
        for mutant in after
        if "clip" in mutant["what"].split(", ")[1] and mutant.get("tests")
    )

    # What is in the source no longer is drawn anew; the rest keeps its tests.
    path = root / "src/lumina/data/clipping.py"
    path.write_text(SOURCE.replace("min(value, LIMIT)", "min(LIMIT, value)"))
    assert "2 passed" in call(root, "map")[1]
    assert call(root, "draw", "--seed", "7", "--count", "60")[0] == 0
    again = tomllib.loads(drawn.read_text())["mutant"]
    kept = [mutant for mutant in again if mutant in after]
    assert len(kept) == 5 and len(again) == 6
