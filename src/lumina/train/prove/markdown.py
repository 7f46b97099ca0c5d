"""Tables and figures of the page."""

from __future__ import annotations

from collections.abc import Iterable, Sequence


def table(head: Sequence[str], rows: Iterable[Sequence[object]]) -> list[str]:
    """A table, as lines."""
    lines = [_line(head), _line(["---"] * len(head))]
    return [*lines, *(_line([str(cell) for cell in row]) for row in rows), ""]


def _line(cells: Sequence[str]) -> str:
    return "| " + " | ".join(cell.replace("|", "\\|") for cell in cells) + " |"


def milliseconds(seconds: float | None) -> str:
    """0.01234 -> 12.34 ms."""
    return "-" if seconds is None else f"{seconds * 1000:,.4g} ms"
