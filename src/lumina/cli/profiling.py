"""What the sub-commands of `lumina profile` share: their folder and their numbers."""

from __future__ import annotations

import argparse
import json
import sys
import time
from pathlib import Path
from typing import Any

from lumina.errors import LuminaError

STEPS = 10
"""Steps that are timed where --steps is not given."""


def add_output(parser: argparse.ArgumentParser) -> argparse._ArgumentGroup:
    """Declare where a profile goes; gives the group for further options."""
    group = parser.add_argument_group("profile")
    group.add_argument(
        "--output",
        metavar="DIR",
        help="where the files go; default: profiles/KIND-DATE-TIME",
    )
    group.add_argument("--json", action="store_true", help="print JSON")
    return group


def folder_for(kind: str, named: str | None) -> Path:
    """An empty or new folder; what is in another one is not written over.

    Raises:
        LuminaError: E002 for a folder that has something in it.
    """
    stamp = time.strftime("%Y%m%d-%H%M%S")
    folder = Path(named or Path("profiles", f"{kind}-{stamp}"))
    if folder.exists() and (not folder.is_dir() or any(folder.iterdir())):
        raise LuminaError(
            "E002", f"{folder} is there already", "name another folder with --output"
        )
    return folder


def write_figures(folder: Path, figures: dict[str, Any]) -> None:
    """The figures of a profile beside its trace."""
    folder.mkdir(parents=True, exist_ok=True)
    (folder / "profile.json").write_text(json.dumps(figures, indent=1) + "\n")


def tell(text: str) -> None:
    """A line of progress, beside the result."""
    print(text, file=sys.stderr, flush=True)


def milliseconds(seconds: float) -> str:
    """0.01234 -> 12.3 ms."""
    return f"{seconds * 1000:,.3g} ms" if seconds < 10 else f"{seconds:,.1f} s"


def at_least(name: str, value: int, least: int) -> int:
    """The value; E005 for one that is too small."""
    if value < least:
        raise LuminaError("E005", f"{name} is {value}", f"give {least} or more")
    return value
