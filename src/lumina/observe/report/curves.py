"""All curves of the report, as the page's script reads them."""

from __future__ import annotations

import importlib
import pkgutil
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np

from lumina import quantities as q
from lumina.observe.report import charts as own
from lumina.observe.report.chart import Chart, Line, Unit
from lumina.observe.report.metrics import Metrics, Values
from lumina.observe.report.thinning import means, thin

MOST_CHARTS = 80
BUCKETS = 500
MOST_DOTS = 200
MOST_NUMBERS = 60_000
"""Numbers that all lines together may take; each takes about 8 bytes of the page."""

_WRITTEN = {
    "number": lambda value: f"{value:.4g}",
    "small": q.scientific,
    "count": q.count,
    "rate": q.rate,
    "share": q.share,
    "bytes": q.byte_size,
    "seconds": lambda value: f"{value:.3g} s",
}


@dataclass(frozen=True)
class Group:
    """Charts below one heading.

    Attributes:
        title: the heading.
        charts: with an id each, as the page shows them.
    """

    title: str
    charts: list[dict[str, Any]]


def gather(metrics: Metrics, plan: Mapping[str, Any]) -> list[tuple[str, list[Chart]]]:
    """The charts that there are figures for, by group; no figure is shown twice."""
    found = []
    shown: set[str] = set()
    left = MOST_CHARTS
    for module in _groups():
        made = [one for one in module.charts(metrics, plan) if one is not None]
        fresh = [one for one in made if not {ln.key for ln in one.lines} <= shown]
        fresh = fresh[:left]
        left -= len(fresh)
        shown |= {ln.key for one in fresh for ln in one.lines}
        if fresh:
            found.append((module.TITLE, fresh))
    return found


def _groups() -> list[Any]:
    names = [module.name for module in pkgutil.iter_modules(own.__path__)]
    modules = [importlib.import_module(f"{own.__name__}.{name}") for name in names]
    return sorted(modules, key=lambda module: module.PLACE)


def groups(
    metrics: Metrics,
    plan: Mapping[str, Any],
    budget: float = 1.0,
    more: Sequence[tuple[str, list[Chart]]] = (),
) -> list[Group]:
    """The same, thinned so that all of them together stay within a size.

    Args:
        budget: share of `MOST_NUMBERS` that may be used.
        more: further groups, with figures that the run itself does not have.
    """
    found = [*gather(metrics, plan), *more]
    lines = sum(len(one.lines) for _, made in found for one in made)
    # A bucket keeps two points and a mean: six numbers.
    room = int(MOST_NUMBERS * budget) // (6 * max(lines, 1))
    buckets = min(max(room, 10), BUCKETS)
    number = 0
    shown = []
    for title, made in found:
        charts = []
        for one in made:
            charts.append(_as_json(one, f"chart-{number}", buckets, metrics.count))
            number += 1
        shown.append(Group(title, charts))
    return shown


def _as_json(chart: Chart, name: str, buckets: int, rows: int) -> dict[str, Any]:
    return {
        "id": name,
        "title": chart.title,
        "about": chart.about,
        "unit": chart.unit,
        "log": _wants_log(chart),
        "lines": [_line(one, buckets, rows) for one in chart.lines],
        "table": [_in_words(one, chart.unit) for one in chart.lines],
    }


def _wants_log(chart: Chart) -> bool:
    """Whether a plain axis would press most of the values into a line."""
    values = np.concatenate([one.values for one in chart.lines])
    return bool(values.min() > 0 and values.max() > 50 * np.median(values))


def _line(line: Line, buckets: int, rows: int) -> dict[str, Any]:
    xs, ys = thin(line.steps, line.values, buckets)
    found: dict[str, Any] = {
        "name": line.name,
        "x": _whole(xs),
        "y": _rounded(ys),
        "smooth": line.smoothed,
        "quiet": line.quiet,
        # Values of some steps only are seen as points.
        "dots": len(line.steps) <= min(max(rows // 2, 2), MOST_DOTS),
    }
    if line.smoothed and not line.quiet and len(xs) < len(line.steps):
        xs, ys = means(line.steps, line.values, buckets)
        found |= {"mx": _whole(xs), "my": _rounded(ys)}
    return found


def _in_words(line: Line, unit: Unit) -> tuple[str, ...]:
    """(name, first, lowest, highest, last), for readers who do not see the curve."""
    text = _WRITTEN[unit]
    low, high = int(line.values.argmin()), int(line.values.argmax())
    at = [f"{text(line.values[n])} (step {line.steps[n]:,.0f})" for n in (low, high)]
    return line.name, text(line.values[0]), *at, text(line.values[-1])


def _whole(values: Values) -> list[int]:
    return [round(value) for value in values.tolist()]


def _rounded(values: Values) -> list[float]:
    """Five digits: more than can be drawn or read."""
    return [float(f"{value:.5g}") for value in values.tolist()]


def axes(metrics: Metrics, buckets: int = 300) -> dict[str, Sequence[float]]:
    """How many tokens and hours of steps lie behind each step, for the other axes.

    Returns:
        `step`, `tokens` and `hours`, equally long; without `tokens` or `hours` where
        the rows do not have them.
    """
    tokens, seconds = metrics.column("tokens"), metrics.column("step_seconds")
    found: dict[str, Sequence[float]] = {}
    steps = tokens.steps if len(tokens) else seconds.steps
    if not len(steps):
        return found
    chosen = np.unique(
        np.linspace(0, len(steps) - 1, min(len(steps), buckets)).astype(int)
    )
    at = steps[chosen]
    found["step"] = _whole(at)
    if len(tokens):
        found["tokens"] = _whole(tokens.values[chosen])
    if len(seconds):
        passed = np.cumsum(seconds.values) / 3600
        found["hours"] = _rounded(np.interp(at, seconds.steps, passed))
    return found
