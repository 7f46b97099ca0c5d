"""Where Lumina keeps what it made and may make again."""

from __future__ import annotations

import contextlib
import os
from collections.abc import Iterator
from pathlib import Path

from lumina.errors import LuminaError


def cache_root() -> Path:
    """`LUMINA_CACHE`, or ``~/.cache/lumina``; E104 for a user without a home."""
    named = os.environ.get("LUMINA_CACHE") or "~/.cache/lumina"
    try:
        return Path(named).expanduser()
    except RuntimeError:
        raise LuminaError(
            "E104",
            f"{named}: the home directory that ~ stands for is not known",
            "set LUMINA_CACHE to a folder that this user may write",
        ) from None


@contextlib.contextmanager
def cache_in(folder: str | os.PathLike[str]) -> Iterator[None]:
    """In this process and those it starts, the cache is `folder` for a while."""
    before = os.environ.get("LUMINA_CACHE")
    os.environ["LUMINA_CACHE"] = os.fspath(folder)
    try:
        yield
    finally:
        if before is None:
            del os.environ["LUMINA_CACHE"]
        else:
            os.environ["LUMINA_CACHE"] = before
