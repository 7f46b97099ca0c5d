"""Lines of JSON that runs on this machine add to a file of the cache."""

from __future__ import annotations

import contextlib
import json
import os
from typing import Any

from lumina.cache_root import cache_root
from lumina.errors import LuminaError

MOST = 1 << 18
"""Bytes at the end of a file that are read."""


def add_line(name: str, values: dict[str, Any]) -> None:
    """Append a line; a cache that cannot be written is no failure.

    Args:
        name: of the file in LUMINA_CACHE.
        values: plain JSON values.
    """
    with contextlib.suppress(OSError, LuminaError):
        cache_root().mkdir(parents=True, exist_ok=True)
        with open(cache_root() / name, "ab") as file:
            file.write(json.dumps(values).encode() + b"\n")


def last_lines(name: str) -> list[dict[str, Any]]:
    """The lines at the end of a file, the newest last; damaged ones are left out."""
    try:
        with open(cache_root() / name, "rb") as file:
            file.seek(max(0, file.seek(0, os.SEEK_END) - MOST))
            lines = file.read().split(b"\n")
    except (OSError, LuminaError):
        return []
    found = []
    for line in lines:
        with contextlib.suppress(ValueError):
            values = json.loads(line)
            if isinstance(values, dict):
                found.append(values)
    return found
