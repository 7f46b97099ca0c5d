"""What a name that there is not may have been meant to be."""

from __future__ import annotations

from collections.abc import Iterable


def nearest(name: str, known: Iterable[str]) -> str | None:
    """The known name most like `name`, or None if none is alike."""
    import difflib  # wanted only where a name is wrong

    found = difflib.get_close_matches(name, list(known), n=1, cutoff=0.6)
    return found[0] if found else None


def did_you_mean(name: str, known: Iterable[str]) -> str:
    """The beginning of a hint that names the one most like it; empty if none is."""
    close = nearest(name, known)
    return f"did you mean {close!r}? " if close else ""
