"""What a chart of the report is made of, before it is thinned and written down."""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass
from typing import Literal

from lumina.observe.report.metrics import Column, Metrics, Values

Unit = Literal["number", "small", "count", "rate", "share", "bytes", "seconds"]
"""How the values of a chart are written; `quantities` and the page's script have a
function for each."""


@dataclass(frozen=True)
class Line:
    """One line of a chart.

    Attributes:
        name: for the legend.
        key: the figure in metrics.jsonl.
        steps: [n], rising.
        values: [n], finite.
        smoothed: it varies by chance, so that smoothing makes sense.
        quiet: drawn thin: a bound, not the figure itself.
    """

    name: str
    key: str
    steps: Values
    values: Values
    smoothed: bool = True
    quiet: bool = False


@dataclass(frozen=True)
class Chart:
    """Lines over the same steps.

    Attributes:
        title: what is shown.
        unit: how values are written.
        lines: those that have points.
        about: a sentence that tells a newcomer how to read it.
    """

    title: str
    unit: Unit
    lines: tuple[Line, ...]
    about: str = ""


def chart(
    title: str, unit: Unit, lines: Iterable[Line | None], about: str = ""
) -> Chart | None:
    """A chart of the lines that there are points for; None without any."""
    drawn = tuple(line for line in lines if line is not None and len(line.steps))
    return Chart(title, unit, drawn, about) if drawn else None


def line(
    metrics: Metrics, key: str, name: str = "", *, smoothed: bool = True
) -> Line | None:
    """The line of a figure; None where the run does not report it."""
    column = metrics.column(key)
    if not len(column):
        return None
    return Line(name or key, key, column.steps, column.values, smoothed)


def layers(metrics: Metrics, key: str, name: str = "mean of layers") -> list[Line]:
    """A figure of each layer: the mean, and the lowest and the highest layer."""
    column = metrics.column(key)
    if not len(column):
        return []
    if not column.layered:
        return [Line("value", key, column.steps, column.values)]
    return [Line(name, key, column.steps, column.values), *_bounds(column, key)]


def _bounds(column: Column, key: str) -> list[Line]:
    return [
        Line(f"{side} layer", key, column.steps, values, quiet=True)
        for side, values in (("lowest", column.low), ("highest", column.high))
    ]
