"""How commands print numbers and tables."""

from __future__ import annotations

from collections.abc import Iterable, Sequence


def count(number: int | float) -> str:
    """A number of parameters: "951.9K", "12.28B"."""
    for unit, size in (("T", 1e12), ("B", 1e9), ("M", 1e6), ("K", 1e3)):
        if number >= size:
            return f"{number / size:.4g}{unit}"
    return f"{number:g}"


def size(number: int | float) -> str:
    """A number of bytes in decimal units: "1.904 MB", "24.56 GB"."""
    for unit, step in (("TB", 1e12), ("GB", 1e9), ("MB", 1e6), ("kB", 1e3)):
        if number >= step:
            return f"{number / step:.4g} {unit}"
    return f"{number:g} B"


def table(head: Sequence[str], rows: Iterable[Sequence[str]], right: str = "") -> str:
    """Columns padded to their widest cell.

    Args:
        right: names of the columns that hold numbers, separated by spaces.
    """
    lines = [list(head), *[[str(cell) for cell in row] for row in rows]]
    widths = [max(len(line[i]) for line in lines) for i in range(len(head))]
    numbers = [name in right.split() for name in head]
    return "\n".join(
        "  ".join(
            cell.rjust(width) if number else cell.ljust(width)
            for cell, width, number in zip(line, widths, numbers, strict=True)
        ).rstrip()
        for line in lines
    )
