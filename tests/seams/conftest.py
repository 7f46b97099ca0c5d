"""Fixtures of the tests that plug a thing from outside the package into its seam."""

from __future__ import annotations

import re
from pathlib import Path

import pytest

PAGE = Path(__file__).parents[2] / "docs" / "extending.md"


@pytest.fixture(scope="session")
def documented(tmp_path_factory):
    """Gives the path of a file that docs/extending.md shows, by its name."""
    folder = tmp_path_factory.mktemp("documented")

    def path(name: str) -> Path:
        text = PAGE.read_text()
        [shown] = re.findall(rf"```python\n(# {re.escape(name)}\n.*?)```", text, re.S)
        (folder / name).write_text(shown)
        return folder / name

    return path
