"""Findings of levers that hold on this machine: ``LUMINA_CACHE/guard/KEY.json``."""

from __future__ import annotations

import contextlib
import json
from pathlib import Path
from typing import Any

from lumina.cache_root import cache_root
from lumina.durable import write_file
from lumina.errors import LuminaError
from lumina.guard.findings import Findings
from lumina.guard.identity import key_of

FOLDER = "guard"


def place(identity: dict[str, Any]) -> Path:
    """The file of an identity."""
    return cache_root() / FOLDER / f"{key_of(identity)}.json"


def cached(identity: dict[str, Any]) -> Findings | None:
    """What was found before under exactly this identity; None: nothing.

    A file that is damaged, or that says that it is of another identity, counts for
    nothing: the lever is tried again.
    """
    try:
        values = json.loads(place(identity).read_bytes())
        if values["identity"] != identity:
            return None
        return Findings.from_dict(values["findings"])
    except (OSError, ValueError, KeyError, TypeError, LuminaError):
        return None


def keep(identity: dict[str, Any], found: Findings) -> None:
    """Keep what was found; a cache that cannot be written is no failure.

    Args:
        identity: what it is valid for.
        found: measured to the end. What a killed process left is not kept.
    """
    file = place(identity)
    text = json.dumps({"identity": identity, "findings": found.to_dict()}, indent=1)
    with contextlib.suppress(OSError, LuminaError):
        file.parent.mkdir(parents=True, exist_ok=True)
        write_file(file, (text + "\n").encode())
