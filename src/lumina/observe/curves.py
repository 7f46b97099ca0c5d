"""Lines of a chart as coordinates: few points that keep all spikes, round ticks."""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field

Point = tuple[float, float]

WIDTH, HEIGHT = 640, 240
LEFT, RIGHT, TOP, BOTTOM = 64, 12, 10, 26
BUCKETS = 300
HINTS = 60


@dataclass(frozen=True)
class Series:
    """One line.

    Attributes:
        name: for the legend.
        points: (step, value), finite, by step.
        style: "faint", "main", "second" or "dots".
    """

    name: str
    points: list[Point]
    style: str = "main"


@dataclass(frozen=True)
class Chart:
    """A drawing in the viewBox 0 0 WIDTH HEIGHT.

    Attributes:
        title: what is shown.
        lines: (name, style, SVG path data, last point as (x, y, text)).
        y_ticks: (y, label); `x_ticks` likewise (x, label).
        hints: (x, width, text) strips that tell the values below the pointer.
        logarithmic: whether the vertical axis is.
    """

    title: str
    lines: list[tuple[str, str, str, tuple[float, float, str]]]
    y_ticks: list[tuple[float, str]]
    x_ticks: list[tuple[float, str]]
    hints: list[tuple[float, float, str]] = field(default_factory=list)
    logarithmic: bool = False


def draw(
    title: str, series: Sequence[Series], label: Callable[[float], str]
) -> Chart | None:
    """A chart of the series that have points; None when none has.

    Args:
        title: what is shown.
        series: lines over the same steps.
        label: writes a value of the vertical axis.
    """
    series = [s for s in series if s.points]
    if not series:
        return None
    xs = [x for s in series for x, _ in s.points]
    ys = [y for s in series for _, y in s.points]
    logarithmic = min(ys) > 0 and max(ys) > 50 * sorted(ys)[len(ys) // 2]
    x_of = _scale(min(xs), max(xs), LEFT, WIDTH - RIGHT)
    ticks = _log_ticks(min(ys), max(ys)) if logarithmic else _ticks(min(ys), max(ys))
    height = math.log10 if logarithmic else float
    low = min(height(min(ys)), height(ticks[0]))
    high = max(height(max(ys)), height(ticks[-1]))
    if low == high:
        low, high = low - 1, high + 1  # a level line runs through the middle
    rise = _scale(low, high, HEIGHT - BOTTOM, TOP)

    def y_of(value: float) -> float:
        return rise(height(value))

    lines = []
    for s in series:
        points = [(x_of(x), y_of(y)) for x, y in thin(s.points)]
        last = s.points[-1]
        end = (x_of(last[0]), y_of(last[1]), f"{s.name} {label(last[1])}")
        lines.append((s.name, s.style, _path(points), end))
    return Chart(
        title=title,
        lines=lines,
        y_ticks=[(y_of(tick), label(tick)) for tick in ticks],
        x_ticks=[(x_of(t), f"{t:,.0f}") for t in _step_ticks(min(xs), max(xs))],
        hints=_hints(series, x_of, label),
        logarithmic=logarithmic,
    )


def thin(points: list[Point], buckets: int = BUCKETS) -> list[Point]:
    """About twice as many points as buckets: the ends, and each one's extremes."""
    if len(points) <= 2 * buckets:
        return points
    first, last = points[0][0], points[-1][0]
    groups: dict[int, list[Point]] = {}
    for point in points:
        share = (point[0] - first) / ((last - first) or 1)
        groups.setdefault(min(int(share * buckets), buckets - 1), []).append(point)
    kept = {points[0], points[-1]}
    for group in groups.values():
        kept |= {min(group, key=_value), max(group, key=_value)}
    return sorted(kept)


def smooth(points: list[Point], share: float = 0.02) -> list[Point]:
    """An exponential average over about this share of the points, unbiased."""
    keep = 1 - 1 / max(len(points) * share, 1)
    total = weight = 0.0
    smoothed = []
    for x, y in points:
        total = keep * total + y
        weight = keep * weight + 1
        smoothed.append((x, total / weight))
    return smoothed


def _value(point: Point) -> float:
    return point[1]


def _scale(low: float, high: float, start: float, end: float) -> Callable[..., float]:
    span = (high - low) or 1.0
    return lambda value: start + (value - low) / span * (end - start)


def _path(points: list[Point]) -> str:
    steps = " ".join(f"{x:.1f},{y:.1f}" for x, y in points)
    # A single point is a line of no length, which round caps make a dot.
    return f"M{steps}" if len(points) > 1 else f"M{steps} {steps}"


def _ticks(low: float, high: float, wanted: int = 4) -> list[float]:
    """Round numbers around [low, high]."""
    if high - low < 1e-12 * max(abs(low), abs(high), 1e-12):
        return [low]
    rough = (high - low) / wanted
    power = 10.0 ** math.floor(math.log10(rough))
    step = next(m * power for m in (1, 2, 2.5, 5, 10) if m * power >= rough)
    first, last = math.floor(low / step + 1e-9), math.ceil(high / step - 1e-9)
    return [n * step for n in range(first, last + 1)]


def _log_ticks(low: float, high: float) -> list[float]:
    first, last = math.floor(math.log10(low)), math.ceil(math.log10(high))
    stride = max((last - first) // 5, 1)
    return [10.0**n for n in range(first, last + 1, stride)]


def _step_ticks(low: float, high: float) -> list[float]:
    """Whole steps within the range."""
    ticks = {float(round(tick)) for tick in _ticks(low, high, 5)}
    return sorted(tick for tick in ticks if low <= tick <= high) or [low]


def _hints(
    series: Sequence[Series],
    x_of: Callable[[float], float],
    label: Callable[[float], str],
) -> list[tuple[float, float, str]]:
    """Strips over the chart: each tells the values at a step near its middle."""
    longest = max((s.points for s in series), key=len)
    stride = max(len(longest) // HINTS, 1)
    tables = [(s.name, dict(s.points)) for s in series]
    chosen = longest[stride // 2 :: stride]
    width = (WIDTH - RIGHT - LEFT) / max(len(chosen), 1)
    hints = []
    for x, _ in chosen:
        values_there = [f"{name} {label(t[x])}" for name, t in tables if x in t]
        text = f"step {x:,.0f}: {', '.join(values_there)}"
        hints.append((x_of(x) - width / 2, width, text))
    return hints
