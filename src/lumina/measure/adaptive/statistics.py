"""Bounds, tests and resampling for the benchmark, without further libraries."""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence

import numpy as np
import numpy.typing as npt

Values = npt.NDArray[np.float64]
Measure = Callable[[Values, Values], Values]

DRAWS, SEED = 10_000, 11
"""Of the bootstrap."""


def upper_bound(failures: int, runs: int, level: float = 0.95) -> float:
    """Clopper and Pearson's one-sided upper bound of a rate; 1 without any run."""
    if failures >= runs:
        return 1.0
    low, high = failures / runs, 1.0
    for _ in range(60):
        middle = (low + high) / 2
        if at_most(failures, runs, middle) > 1 - level:
            low = middle
        else:
            high = middle
    return high


def at_most(successes: int, runs: int, rate: float) -> float:
    """The chance of at most this many successes."""
    if rate <= 0:
        return 1.0
    if rate >= 1:
        return float(successes >= runs)
    return min(
        1.0,
        sum(
            math.exp(
                math.lgamma(runs + 1)
                - math.lgamma(k + 1)
                - math.lgamma(runs - k + 1)
                + k * math.log(rate)
                + (runs - k) * math.log1p(-rate)
            )
            for k in range(successes + 1)
        ),
    )


def sign_test(wins: int, losses: int) -> float:
    """The two-sided chance of so uneven a count by luck; ties are left out."""
    runs = wins + losses
    if not runs:
        return 1.0
    return min(1.0, 2 * at_most(min(wins, losses), runs, 0.5))


def interval(
    pairs: Sequence[tuple[float, float]], measure: Measure, draws: int = DRAWS
) -> tuple[float, float, float]:
    """A measure of pairs, and its bootstrap interval of 95% (percentiles).

    Returns:
        (value, low, high); not a number where there are no pairs.
    """
    if not pairs:
        return (math.nan, math.nan, math.nan)
    first, second = np.array(pairs, dtype=float).T
    drawn = np.random.default_rng(SEED).integers(len(pairs), size=(draws, len(pairs)))
    low, high = np.percentile(measure(first[drawn], second[drawn]), (2.5, 97.5))
    return (float(measure(first, second)), float(low), float(high))


def median_ratio(first: Values, second: Values) -> Values:
    """The median of first over second, along the last axis."""
    found: Values = np.median(first / second, axis=-1)
    return found


def ratio_of_means(first: Values, second: Values) -> Values:
    """The mean of the first over that of the second, along the last axis."""
    found: Values = first.mean(-1) / second.mean(-1)
    return found
