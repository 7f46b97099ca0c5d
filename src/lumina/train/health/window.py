"""Levels and spreads of the figures of a window, which outliers hardly move."""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import NamedTuple

from lumina.plan.plan import Plan
from lumina.train.health.check import mean, median

NORMAL = 1.4826
"""Median deviation to standard deviation, of normally distributed values."""

ERROR_OF_MEDIAN = 1.2533
"""Standard error of a median, by that of a mean, of normally distributed values."""


def window_of(plan: Plan, least: int = 10, most: int = 50) -> int:
    """Steps of a window: a sixth of the run, within bounds.

    So a run of 60 steps has windows of 10 steps, and long runs have those of 50.
    """
    return min(max(plan.steps // 6, least), most)


def after_warm_up(plan: Plan, step: int) -> bool:
    """Whether a step lies behind the warm-up of the run, or of its phase."""
    return step > plan.phase_begin + plan.warmup_steps


class Level(NamedTuple):
    """Where the figures of a window lie, and how far apart.

    Attributes:
        middle: their median.
        spread: their standard deviation, estimated from the median deviation and made
            larger in a small window, where that estimate is uncertain.
    """

    middle: float
    spread: float

    def above(self, value: float) -> float:
        """How many standard deviations a value lies above the middle."""
        return (value - self.middle) / max(self.spread, 1e-12)


def level(values: Sequence[float]) -> Level:
    """Of at least one value."""
    middle = median(values)
    spread = NORMAL * median([abs(x - middle) for x in values])
    return Level(middle, spread * (1 + 4 / len(values)))


def error_of_difference(spread: float, first: int, second: int) -> float:
    """Standard error of the difference of two medians of this many values."""
    return ERROR_OF_MEDIAN * spread * math.sqrt(1 / first + 1 / second)


def falls(losses: Sequence[float], errors: float = 2.0) -> bool:
    """Whether a loss clearly falls: from the first half of some steps to the second.

    Gradients and logits grow in sound runs, too, above all where a model leaves a level
    and begins to learn what it could not before. A loss that falls tells that from
    trouble.

    Args:
        losses: of steps that follow each other; of fewer than 8 nothing is said.
        errors: standard errors of the difference of two medians that count.
    """
    half = len(losses) // 2
    if half < 4:
        return False
    first, second = level(losses[:half]), level(losses[-half:])
    spread = max(first.spread, second.spread)
    error = error_of_difference(spread, half, half)
    return second.middle < first.middle - errors * error


def line(values: Sequence[float]) -> tuple[float, float]:
    """Slope for each place, and R^2, of the line of least squares through values."""
    count = len(values)
    middle, height = (count - 1) / 2, mean(values)
    over = sum((at - middle) * (x - height) for at, x in enumerate(values))
    places = sum((at - middle) ** 2 for at in range(count))
    total = sum((x - height) ** 2 for x in values)
    return over / places, (over * over / (places * total) if total > 0 else 0.0)
