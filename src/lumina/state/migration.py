"""Versions of the checkpoint format, and how an older one becomes the present one.

A version is "major.minor". A minor step only adds what an older reader may ignore, so
any minor version of a known major is read. A major step changes a meaning: older ones
are brought up by `MIGRATIONS`, newer ones refused.
"""

from __future__ import annotations

import re
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

from lumina.errors import LuminaError

FORMAT_VERSION = "1.0"


@dataclass(frozen=True)
class Migration:
    """One major step; each function returns its object in the next major version."""

    manifest: Callable[[dict[str, Any]], dict[str, Any]]
    state: Callable[[dict[str, Any]], dict[str, Any]]


MIGRATIONS: dict[int, Migration] = {}
"""Major version -> the step up from it. Empty while 1 is the first and only format."""


def parse_version(text: object) -> tuple[int, int]:
    """Major and minor of a format version.

    Raises:
        LuminaError: E303 when it is not one.
    """
    match = re.fullmatch(r"(\d{1,6})\.(\d{1,6})", text) if type(text) is str else None
    if match is None:
        raise LuminaError(
            "E303",
            f"the checkpoint's format_version is {text!r}, not like {FORMAT_VERSION!r}",
            "use another checkpoint",
        )
    return int(match[1]), int(match[2])


def steps_from(text: object) -> list[Migration]:
    """The migrations that a checkpoint of format version `text` needs, in order.

    Raises:
        LuminaError: E303 for a newer major version, or an older one without a way up.
    """
    major, _ = parse_version(text)
    present, _ = parse_version(FORMAT_VERSION)
    if major > present:
        raise LuminaError(
            "E303",
            f"the checkpoint has format {text}; this version reads up to {present}.x",
            "update the package: pip install --upgrade luminaai",
        )
    if any(old not in MIGRATIONS for old in range(major, present)):
        raise LuminaError(
            "E303",
            f"the checkpoint has format {text}, which can no longer be read",
            "open and save it with an older version of the package first",
        )
    return [MIGRATIONS[old] for old in range(major, present)]
