"""One entry of a table and its file can go: everything else stays whole."""

from __future__ import annotations

import shutil
import subprocess
import sys
from dataclasses import dataclass
from pathlib import Path

import pytest

from import_path import finding
from training import SHAPE, words

ROOT = Path(__file__).parents[2]
IMPORT_ALL = """
import importlib, pkgutil, lumina
for module in pkgutil.walk_packages(lumina.__path__, "lumina."):
    if module.name.endswith("__main__"):
        continue
    try:
        importlib.import_module(module.name)
    except ModuleNotFoundError as error:  # packages of a GPU
        if error.name.startswith("lumina"):
            raise
"""


@dataclass(frozen=True)
class Entry:
    """One entry of a table.

    Attributes:
        files: its own, below src/lumina.
        lines: (file, text, what stands there without it): its registration.
        asks: options that ask for it.
        says: what the refusal names then.
    """

    files: tuple[str, ...]
    lines: tuple[tuple[str, str, str], ...] = ()
    asks: str = ""
    says: str = ""


ENTRIES = {
    "optimizer": Entry(
        ("optim/methods/adam_atan2.py",),
        asks="--optimizer adam_atan2",
        says="adam_atan2",
    ),
    "way of being parallel": Entry(
        ("parallel/ways/independent.py",),
        asks="--parallel independent",
        says="independent",
    ),
    "kind of data": Entry(
        ("data/arc_data.py",),
        (
            ("data/kinds.py", "import arc_data, ", "import "),
            ("data/kinds.py", "    arc_data.KIND,\n", ""),
        ),
    ),
    "control": Entry(
        ("train/controls/depth.py",),
        (
            ("train/controls/__init__.py", "    depth,\n    ending,", "    ending,"),
            ("train/controls/__init__.py", "    depth,\n    mixture,", "    mixture,"),
        ),
    ),
    "rule": Entry(
        ("train/rules/expert_capacity.py",),
        (
            (
                "train/rules/__init__.py",
                "    expert_capacity,\n    orchestrator,",
                "    orchestrator,",
            ),
            ("train/rules/__init__.py", "OWN = (\n    expert_capacity,", "OWN = ("),
        ),
    ),
    "feature": Entry(
        ("features/declared/average.py",),
        asks="--features ema",
        says="'ema' is not a feature",
    ),
}


def run(copy: Path, *command: str) -> subprocess.CompletedProcess[str]:
    """A command that sees the copy's source."""
    return subprocess.run(
        [sys.executable, *command],
        env=finding(copy / "src"),
        capture_output=True,
        text=True,
    )


@pytest.mark.slow
@pytest.mark.parametrize("name", ENTRIES)
@pytest.mark.covers("DOC-05: plug-in style")
def test_without_it_everything_else_imports_passes_lint_and_trains(
    name: str, tmp_path: Path, tiny_corpus: Path
) -> None:
    entry, copy = ENTRIES[name], tmp_path / "copy"
    skipped = shutil.ignore_patterns("__pycache__")
    shutil.copytree(ROOT / "src", copy / "src", ignore=skipped)
    shutil.copy(ROOT / "pyproject.toml", copy)
    for file in entry.files:
        (copy / "src/lumina" / file).unlink()
    for file, line, rest in entry.lines:
        path = copy / "src/lumina" / file
        text = path.read_text()
        assert text.count(line) == 1, (file, line)
        path.write_text(text.replace(line, rest))

    imported = run(copy, "-c", IMPORT_ALL)
    assert imported.returncode == 0, imported.stderr
    linted = run(copy, "-m", "ruff", "check", str(copy / "src"))
    assert linted.returncode == 0, linted.stdout
    train = ["-m", "lumina", "train", *SHAPE, "--train-data", str(tiny_corpus)]
    train += words("--no-use-moe --steps 4 --precision fp32")
    trained = run(copy, *train, "--run-dir", str(tmp_path / "run"))
    assert trained.returncode == 0, trained.stdout + trained.stderr
    assert (tmp_path / "run/report.html").is_file()
    if entry.asks:
        asked = [*train, *words(entry.asks), "--run-dir", str(tmp_path / "other")]
        refused = run(copy, *asked)
        assert refused.returncode == 2
        assert entry.says in refused.stderr
        assert not (tmp_path / "other").exists()
