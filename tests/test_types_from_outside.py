"""The package's type hints as a project of somebody else's sees them."""

from __future__ import annotations

import ast
import re
import shutil
import subprocess
import sys
from pathlib import Path

import pytest

import lumina

PACKAGE = Path(lumina.__file__).parent
PROJECT = Path(__file__).parent / "outside"


def test_the_stub_names_what_the_package_offers() -> None:
    tree = ast.parse((PACKAGE / "__init__.pyi").read_text())
    named = {
        alias.asname: node.module
        for node in tree.body
        if isinstance(node, ast.ImportFrom)
        for alias in node.names
    }
    assert named == lumina._PUBLIC
    assert (PACKAGE / "py.typed").is_file()


@pytest.mark.thorough
def test_strict_mypy_knows_the_public_names(tmp_path: Path) -> None:
    for name in ("use", "wrong"):
        shutil.copy(PROJECT / f"{name}.py.txt", tmp_path / f"{name}.py")

    def checked(name: str) -> str:
        done = subprocess.run(
            [sys.executable, "-m", "mypy", "--strict", "--config-file=",
             "--cache-dir", "cache", f"{name}.py"],
            cwd=tmp_path, capture_output=True, text=True, check=False,
        )  # fmt: skip
        return done.stdout + done.stderr

    good = checked("use")
    assert "error" not in good, good
    revealed = re.findall(r'Revealed type is "(.*)"', good)
    assert revealed[:4] == [
        "str",
        "pathlib.Path",
        "float",
        "lumina.config.config.Config",
    ]
    assert "Any" not in revealed, revealed
    wrong = checked("wrong")
    lines = {int(line) for line in re.findall(r"wrong.py:(\d+): error", wrong)}
    assert lines == {3, 4, 5, 9, 12}, wrong
