"""What `lumina matrix` has found: rows that come with Lumina, and the user's own.

Nothing here needs torch. A row is a line of JSON, as `lumina.train.matrix.record`
writes it.
"""

from __future__ import annotations

import json
from collections.abc import Iterable, Mapping
from functools import cache
from importlib import resources
from pathlib import Path
from typing import Any

from lumina.cache_root import cache_root
from lumina.errors import LuminaError
from lumina.features.checks import requested_features
from lumina.features.table import FEATURES

Row = Mapping[str, Any]

VERIFIED = "verified"
BAD = ("differs", "failed")
"""Statuses of combinations that are warned of."""

ABSENT = "untested: absent"
"""The status of what a machine could not try, which says nothing of the others."""


def says_something(row: Row) -> bool:
    """Whether a row tells how features do by themselves, without further options."""
    return bool(row["features"]) and not row["options"] and row["status"] != ABSENT


def own_file() -> Path | None:
    """Where `lumina matrix` writes by default; None for a user without a home."""
    try:
        return cache_root() / "matrix" / "results.jsonl"
    except LuminaError:
        return None


def known_rows() -> list[Row]:
    """The rows that come with Lumina, then those of this user."""
    file = own_file()
    try:
        own = file.read_text(errors="replace") if file is not None else ""
    except OSError:
        own = ""
    return [*committed_rows(), *_parsed(own)]


@cache
def committed_rows() -> tuple[Row, ...]:
    """The rows that come with Lumina."""
    folder = resources.files("lumina.features").joinpath("matrix_rows")
    files = sorted(
        (one for one in folder.iterdir() if one.name.endswith(".jsonl")),
        key=lambda one: one.name,
    )
    return tuple(row for file in files for row in _parsed(file.read_text()))


def known_trouble(config: Any, rows: Iterable[Row]) -> list[str]:
    """What the matrix has found to differ or fail among the features of a Config.

    A row counts where the Config asks for all its features, and where no later row of
    the same features was verified.

    Args:
        config: what is asked for.
        rows: of the matrix.
    """
    asked = set(requested_features(FEATURES, config))
    found: dict[tuple[str, ...], Row] = {}
    for row in rows:
        if says_something(row) and asked.issuperset(row["features"]):
            found[tuple(row["features"])] = row
    bad = {names: row for names, row in found.items() if row["status"] in BAD}
    # A pair with a feature that is bad alone says nothing more.
    smallest = [
        row
        for names, row in bad.items()
        if not any(set(other) < set(names) for other in bad)
    ]
    return [_told(row) for row in smallest]


def place(row: Row) -> str:
    """Where and when a row was found, in words."""
    hardware = row["hardware"]
    torch = hardware.get("versions", {}).get("torch", "")
    version = f", torch {torch}" if torch else ""
    return f"{hardware['name'] or hardware['device']}{version}, {row['date']}"


def _told(row: Row) -> str:
    names = " and ".join(row["features"])
    verb = "was" if len(row["features"]) == 1 else "were together"
    said = "found to differ from the reference" if row["status"] == "differs" else (
        "found to fail"
    )  # fmt: skip
    return f"{names} {verb} {said} by lumina matrix ({place(row)}): {row['why']}"


def _parsed(text: str) -> list[Row]:
    """The whole lines of a file; a killed writer may have left half of one."""
    rows: list[Row] = []
    for line in text.splitlines():
        try:
            row = json.loads(line)
        except ValueError:
            continue
        if isinstance(row, dict) and {"features", "status", "hardware"} <= row.keys():
            rows.append(row)
    return rows
