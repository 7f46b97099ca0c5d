"""`make docs`: the site is built, its links hold, and it needs no network."""

from __future__ import annotations

import importlib.util
import json
import shutil
import subprocess
import sys
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[2]

pytestmark = [
    pytest.mark.thorough,
    pytest.mark.skipif(
        importlib.util.find_spec("material") is None,
        reason="needs the extra `docs`, which `make docs` installs",
    ),
]


@pytest.fixture
def copy(tmp_path: Path) -> Path:
    """What the site is made of, where it may be changed."""
    for name in ("docs", "tools", "src", "examples", "benchmarks"):
        ignored = shutil.ignore_patterns("__pycache__", "results")
        shutil.copytree(ROOT / name, tmp_path / name, ignore=ignored)
    shutil.copytree(ROOT / "benchmarks/results", tmp_path / "benchmarks/results")
    for name in ("mkdocs.yml", "pyproject.toml"):
        shutil.copy(ROOT / name, tmp_path)
    return tmp_path


def build(root: Path, *words: str) -> subprocess.CompletedProcess[str]:
    command = [sys.executable, str(root / "tools" / "docs.py"), *words]
    return subprocess.run(command, capture_output=True, text=True, timeout=300)


def test_the_site_is_built_and_a_broken_link_stops_it(copy: Path) -> None:
    built = build(copy, "--out", str(copy / "found.json"))
    assert built.returncode == 0, built.stderr
    found = json.loads((copy / "found.json").read_text())
    assert found["pages"] > 40 and found["fetched"] == []
    assert found["bytes"] > 2**20
    site = copy / "build" / "site"
    assert "learning-rate" in (site / "reference" / "options.html").read_text()
    assert (site / "images" / "report-light.png").is_file()
    page = copy / "docs" / "first-run.md"
    text = page.read_text()
    for wrong in ("(nowhere.md)", "(data.md#no-such-part)", "(../src/lumina/none.py)"):
        page.write_text(f"{text}\n[a link]{wrong}\n")
        broken = build(copy)
        assert broken.returncode != 0, wrong
    page.write_text(f"{text}\n<img src='https://example.org/x.png'>\n")
    outside = build(copy)
    assert outside.returncode == 1 and "example.org" in outside.stderr
