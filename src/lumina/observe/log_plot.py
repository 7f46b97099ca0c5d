"""A plot over a logarithmic axis, as an SVG file that stands on its own."""

from __future__ import annotations

import html
import math
from collections.abc import Sequence
from dataclasses import dataclass

WIDTH, HEIGHT = 720, 420
LEFT, RIGHT, TOP, BOTTOM = 70, 150, 46, 50
COLOURS = ("#2563eb", "#d97706", "#059669", "#dc2626", "#7c3aed", "#0891b2")
GREY = "#9ca3af"


@dataclass(frozen=True)
class Line:
    """One line of a plot.

    Attributes:
        name: for the legend.
        points: (x above 0, finite y), by x.
        faint: whether it stays in the background.
    """

    name: str
    points: Sequence[tuple[float, float]]
    faint: bool = False


def plot(
    title: str,
    x_name: str,
    y_name: str,
    lines: Sequence[Line],
    marks: Sequence[tuple[float, str]] = (),
) -> str:
    """The text of an SVG file.

    Args:
        title: what is shown.
        x_name: of the logarithmic axis.
        y_name: of the other axis.
        lines: what to draw.
        marks: (x, words) of vertical lines.
    """
    xs = [x for line in lines for x, _ in line.points] + [x for x, _ in marks]
    ys = [y for line in lines for _, y in line.points]
    low, high = math.log10(min(xs)), math.log10(max(xs))
    bottom, top = min(ys), max(ys)
    bottom, top = bottom - 0.05 * (top - bottom or 1), top + 0.05 * (top - bottom or 1)

    def x_of(x: float) -> float:
        share = (math.log10(x) - low) / ((high - low) or 1)
        return LEFT + share * (WIDTH - LEFT - RIGHT)

    def y_of(y: float) -> float:
        return HEIGHT - BOTTOM - (y - bottom) / (top - bottom) * (HEIGHT - TOP - BOTTOM)

    parts = [
        f'<svg xmlns="http://www.w3.org/2000/svg" viewBox="0 0 {WIDTH} {HEIGHT}" '
        'font-family="sans-serif" font-size="12">',
        f'<rect width="{WIDTH}" height="{HEIGHT}" fill="#ffffff"/>',
        _text(LEFT, 24, title, size=15),
        _text((LEFT + WIDTH - RIGHT) / 2, HEIGHT - 12, x_name, anchor="middle"),
        f'<g transform="rotate(-90 16 {HEIGHT / 2})">'
        + _text(16, HEIGHT / 2, y_name, anchor="middle")
        + "</g>",
    ]
    for power in range(math.ceil(low - 1e-9), math.floor(high + 1e-9) + 1):
        x = x_of(10.0**power)
        parts += [_rule(x, TOP, x, HEIGHT - BOTTOM)]
        parts += [_text(x, HEIGHT - BOTTOM + 18, f"1e{power}", anchor="middle")]
    for n in range(5):
        value = bottom + (top - bottom) * n / 4
        parts += [_rule(LEFT, y_of(value), WIDTH - RIGHT, y_of(value))]
        parts += [_text(LEFT - 8, y_of(value) + 4, f"{value:.3g}", anchor="end")]
    colours = iter(COLOURS * len(lines))
    for row, line in enumerate(lines):
        colour = GREY if line.faint else next(colours)
        path = " ".join(f"{x_of(x):.1f},{y_of(y):.1f}" for x, y in line.points)
        width = 1 if line.faint else 2
        parts.append(
            f'<polyline points="{path}" fill="none" stroke="{colour}" '
            f'stroke-width="{width}"/>'
        )
        name = _text(WIDTH - RIGHT + 12, TOP + 12 + 18 * row, line.name, colour=colour)
        parts.append(name)
    for row, (x, words) in enumerate(marks):
        parts.append(_rule(x_of(x), TOP, x_of(x), HEIGHT - BOTTOM, COLOURS[3]))
        below = TOP + 30 + 18 * (len(lines) + row)
        parts.append(_text(WIDTH - RIGHT + 12, below, words, colour=COLOURS[3]))
    return "\n".join([*parts, "</svg>", ""])


def _rule(x1: float, y1: float, x2: float, y2: float, colour: str = "#e5e7eb") -> str:
    ends = f'x1="{x1:.1f}" y1="{y1:.1f}" x2="{x2:.1f}" y2="{y2:.1f}"'
    return f'<line {ends} stroke="{colour}"/>'


def _text(
    x: float,
    y: float,
    words: str,
    *,
    anchor: str = "start",
    colour: str = "#374151",
    size: int = 12,
) -> str:
    return (
        f'<text x="{x:.1f}" y="{y:.1f}" text-anchor="{anchor}" font-size="{size}" '
        f'fill="{colour}">{html.escape(words)}</text>'
    )
