"""Bytes as people read them."""

from __future__ import annotations

from collections.abc import Mapping


def gibibytes(size: int) -> str:
    """Such as "1.5 GiB", or in MiB or KiB where that reads better."""
    for unit, name in ((2**30, "GiB"), (2**20, "MiB")):
        if size >= unit:
            return f"{size / unit:,.1f} {name}"
    return f"{size / 2**10:,.1f} KiB"


def listed(parts: Mapping[str, int], most: int = 5) -> str:
    """The largest components of an estimate, in words."""
    largest = sorted(
        ((size, name) for name, size in parts.items() if size and name != "total"),
        reverse=True,
    )
    return ", ".join(
        f"{name.replace('_', ' ')} {gibibytes(size)}" for size, name in largest[:most]
    )
