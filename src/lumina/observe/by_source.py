"""The sources of a mixture in the console and in the report."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

from lumina import quantities as q
from lumina.observe import curves

_STYLES = ("main", "second", "faint")
"""Styles of the curves, which repeat where there are more sources."""


def sources_in(rows: Sequence[Mapping[str, Any]]) -> list[str]:
    """The names of the sources that any of the rows is about, in their order."""
    keys = dict.fromkeys(key for row in rows for key in row)
    ending = ".weight"
    return [
        key.removeprefix("source.").removesuffix(ending)
        for key in keys
        if key.startswith("source.") and key.endswith(ending)
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


def source_charts(rows: Sequence[Mapping[str, Any]]) -> list[curves.Chart | None]:
    """Curves of the sources' losses, and of their shares where these change."""
    names = sources_in(rows)
    if not names:
        return []

    def lines(ending: str) -> list[curves.Series]:
        found = []
        for number, name in enumerate(names):
            key = f"source.{name}.{ending}"
            points = [
                (float(row["step"]), value)
                for row in rows
                if (value := q.known(row.get(key))) is not None
            ]
            if ending == "loss":
                points = curves.smooth(points)
            found.append(curves.Series(name, points, _STYLES[number % len(_STYLES)]))
        return found

    def short(value: float) -> str:
        return f"{value:.3g}"

    charts = [
        curves.draw("Loss of each source, smoothed", lines("loss"), short),
        curves.draw("Held-out loss of each source", lines("eval_loss"), short),
    ]
    shares = lines("weight")
    if any(len({y for _, y in one.points}) > 1 for one in shares):
        charts.append(curves.draw("Share of each source", shares, q.share))
    return charts
