"""The sources of a mixture in the console and in the report."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from typing import Any

from lumina import quantities as q


def sources_in(rows: Sequence[Mapping[str, Any]]) -> list[str]:
    """The names of the sources that any of the rows is about, in their order."""
    return names_of("source", dict.fromkeys(key for row in rows for key in row))


def names_of(kind: str, keys: Iterable[str], ending: str = "weight") -> list[str]:
    """Names that keys such as source.NAME.weight are about, in their order.

    Args:
        kind: "source", "task" or "group".
        keys: of a row.
        ending: of the keys that are looked at.
    """
    start, end = f"{kind}.", f".{ending}"
    return [
        key.removeprefix(start).removesuffix(end)
        for key in keys
        if key.startswith(start) and key.endswith(end)
    ]


def source_cells(row: Mapping[str, Any]) -> list[tuple[str, str]]:
    """Of each source: its loss, its share of the rows, and how often it was seen."""
    cells = []
    for name in sources_in([row]):
        loss = q.decimal(row.get(f"source.{name}.loss"))
        share = q.share(row.get(f"source.{name}.weight"))
        epoch = q.decimal(row.get(f"epoch.{name}"), 2)
        cells.append((name, f"loss {loss}, {share} of rows, epoch {epoch}"))
    return cells


def source_figures(
    rows: Sequence[Mapping[str, Any]],
) -> list[tuple[str, str, str]]:
    """(name, figure, remark) of the tiles: the last held-out loss of each source."""
    figures = []
    for name in sources_in(rows[-1:]):
        key = f"source.{name}.eval_loss"
        losses = [row[key] for row in rows if q.known(row.get(key)) is not None]
        remark = f"{q.decimal(rows[-1].get(f'epoch.{name}'), 2)} epochs of it"
        changes = [row.get(f"source.{name}.eval_change") for row in rows]
        known = [change for change in changes if q.known(change) is not None]
        if known:
            remark += f", {known[-1]:+.4f} since it began"
        if losses:
            figures.append((f"held-out loss of {name}", q.decimal(losses[-1]), remark))
    return figures
