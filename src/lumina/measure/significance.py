"""Whether two sets of figures differ: t-tests, the bootstrap, effect sizes.

No library is needed for it: the distribution of Student's t is computed from the
incomplete beta function.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

Values = NDArray[np.float64]

DRAWS = 10_000
"""Of the bootstrap."""


@dataclass(frozen=True)
class Difference:
    """How the second of two sets of figures differs from the first.

    Attributes:
        difference: of their means, or of their figures: the second less the first.
        low: lower end of the confidence interval of the difference.
        high: upper end.
        p_value: two-sided chance of so great a difference where there is none.
        effect_size: the difference in standard deviations; None where nothing varies.
        test: the name of the test.
        count: pairs, or the smaller of the two sets.
    """

    difference: float
    low: float
    high: float
    p_value: float
    effect_size: float | None
    test: str
    count: int


def paired_t_test(first: Values, second: Values, level: float = 0.95) -> Difference:
    """Student's t-test of pairs (Student, 1908).

    Args:
        first: [n], n of 2 or more.
        second: [n], measured on the same n things.
        level: of the confidence interval.

    Returns:
        With Cohen's d of pairs, the mean of the differences over their standard
        deviation (Cohen, 1988, section 2.3.5: d_z), as the effect size.
    """
    apart = second - first
    count = len(apart)
    mean, spread = float(apart.mean()), float(apart.std(ddof=1))
    error = spread / math.sqrt(count)
    low, high, p_value = _interval(mean, error, count - 1, level)
    effect = mean / spread if spread > 0 else None
    return Difference(mean, low, high, p_value, effect, "paired t-test", count)


def welch_t_test(first: Values, second: Values, level: float = 0.95) -> Difference:
    """Welch's t-test of two sets whose variances may differ (Welch, 1947).

    Args:
        first: [n], n of 2 or more.
        second: [m], m of 2 or more.
        level: of the confidence interval.

    Returns:
        With Hedges' g, Cohen's d of the pooled deviation without its bias in small
        sets (Hedges, 1981), as the effect size.
    """
    counts = np.array([len(first), len(second)])
    variances = np.array([first.var(ddof=1), second.var(ddof=1)])
    mean = float(second.mean() - first.mean())
    parts = variances / counts
    error = math.sqrt(float(parts.sum()))
    freedom = float(counts.sum() - 2)
    if error > 0:
        freedom = float(parts.sum() ** 2 / (parts**2 / (counts - 1)).sum())
    low, high, p_value = _interval(mean, error, freedom, level)
    whole = float(counts.sum() - 2)
    pooled = math.sqrt(float(((counts - 1) * variances).sum()) / whole)
    effect = None
    if pooled > 0:
        bias = math.exp(
            math.lgamma(whole / 2)
            - math.lgamma((whole - 1) / 2)
            - 0.5 * math.log(whole / 2)
        )
        effect = mean / pooled * bias
    return Difference(
        mean, low, high, p_value, effect, "Welch's t-test", int(min(counts))
    )


def paired_bootstrap(
    first: Values,
    second: Values,
    level: float = 0.95,
    *,
    figure: Callable[[Values], float],
    sized: bool = True,
    draws: int = DRAWS,
    seed: int = 0,
) -> Difference:
    """The bootstrap of pairs (Efron and Tibshirani, 1993; Koehn, 2004).

    Args:
        first: [n, k], n of 2 or more.
        second: [n, k], measured on the same n things.
        level: of the interval, whose ends are percentiles.
        figure: of [n, k] numbers; its difference is examined.
        sized: the figure is a mean, so that there is an effect size where k is 1.
        draws: how often n pairs are drawn with replacement.
        seed: of the draws.

    Returns:
        With the mean over the standard deviation of the pairs' differences, where there
        is one, as the effect size. The chance is twice the share
        of the draws on the other side of 0, and never below 1 / (draws + 1).
    """
    count = len(first)
    drawn = np.random.default_rng(seed).integers(count, size=(draws, count))
    found = np.array([figure(second[at]) - figure(first[at]) for at in drawn])
    low, high = np.percentile(found, (50 * (1 - level), 50 * (1 + level)))
    mean = figure(second) - figure(first)
    return Difference(
        mean,
        float(low),
        float(high),
        _chance(found),
        _paired_effect(first, second) if sized else None,
        "paired bootstrap",
        count,
    )


def bootstrap(
    first: Values,
    second: Values,
    level: float = 0.95,
    *,
    draws: int = DRAWS,
    seed: int = 0,
) -> Difference:
    """The bootstrap of the means of two sets, each drawn by itself.

    Args:
        first: [n], n of 2 or more.
        second: [m], m of 2 or more.
        level: of the interval, whose ends are percentiles.
        draws: how often each set is drawn with replacement.
        seed: of the draws.

    Returns:
        With Hedges' g as the effect size; the chance as of `paired_bootstrap`.
    """
    random = np.random.default_rng(seed)
    means = [
        one[random.integers(len(one), size=(draws, len(one)))].mean(axis=1)
        for one in (first, second)
    ]
    found = means[1] - means[0]
    low, high = np.percentile(found, (50 * (1 - level), 50 * (1 + level)))
    other = welch_t_test(first, second, level)
    return Difference(
        other.difference,
        float(low),
        float(high),
        _chance(found),
        other.effect_size,
        "bootstrap",
        other.count,
    )


def holm(p_values: Sequence[float]) -> list[float]:
    """Chances made comparable with one level, however many were looked at.

    Holm, 1979: the smallest of n is multiplied by n, the next by n - 1, and so on, and
    none is smaller than one before it.
    """
    order = sorted(range(len(p_values)), key=lambda at: p_values[at])
    found, largest = [1.0] * len(p_values), 0.0
    for rank, at in enumerate(order):
        largest = max(largest, min(1.0, p_values[at] * (len(p_values) - rank)))
        found[at] = largest
    return found


def size_in_words(effect: float | None) -> str:
    """What Cohen (1988) calls an effect of this size."""
    if effect is None:
        return "-"
    size = abs(effect)
    names = ((0.2, "negligible"), (0.5, "small"), (0.8, "medium"))
    return next((name for below, name in names if size < below), "large")


def student_tail(t: float, freedom: float) -> float:
    """The two-sided chance that |T| is at least |t|, of Student's distribution.

    Args:
        t: the statistic; may be infinite.
        freedom: degrees of freedom, above 0; any number.
    """
    if math.isinf(t):
        return 0.0
    return incomplete_beta(freedom / 2, 0.5, freedom / (freedom + t * t))


def student_quantile(level: float, freedom: float) -> float:
    """The t on both sides of 0 within which a share of Student's distribution lies."""
    low, high = 0.0, 1.0
    while student_tail(high, freedom) > 1 - level:
        high *= 2
    for _ in range(200):
        middle = (low + high) / 2
        if student_tail(middle, freedom) > 1 - level:
            low = middle
        else:
            high = middle
    return high


def incomplete_beta(a: float, b: float, x: float) -> float:
    """The regularised incomplete beta function I_x(a, b).

    By its continued fraction (Abramowitz and Stegun, 26.5.8), in Lentz's way.
    """
    if x <= 0:
        return 0.0
    if x >= 1:
        return 1.0
    if x > (a + 1) / (a + b + 2):  # there the fraction of the other tail is short
        return 1.0 - incomplete_beta(b, a, 1.0 - x)
    front = math.exp(
        math.lgamma(a + b)
        - math.lgamma(a)
        - math.lgamma(b)
        + a * math.log(x)
        + b * math.log1p(-x)
    )
    tiny = 1e-300
    c, d = 1.0, 1.0 / _away(1.0 - (a + b) * x / (a + 1), tiny)
    value = d
    for m in range(1, 500):
        for numerator in (
            m * (b - m) * x / ((a + 2 * m - 1) * (a + 2 * m)),
            -(a + m) * (a + b + m) * x / ((a + 2 * m) * (a + 2 * m + 1)),
        ):
            d = 1.0 / _away(1.0 + numerator * d, tiny)
            c = _away(1.0 + numerator / c, tiny)
            value *= c * d
        if abs(c * d - 1.0) < 1e-15:
            break
    return front * value / a


def _away(value: float, tiny: float) -> float:
    """A value that can be divided by."""
    return value if abs(value) > tiny else tiny


def _interval(
    mean: float, error: float, freedom: float, level: float
) -> tuple[float, float, float]:
    """(low, high, p) of a difference with a standard error."""
    if error == 0:  # nothing varies: any difference is certain
        return mean, mean, 1.0 if mean == 0 else 0.0
    reach = student_quantile(level, freedom) * error
    return mean - reach, mean + reach, student_tail(mean / error, freedom)


def _chance(found: Values) -> float:
    """Twice the share of draws on the smaller side of 0; one draw more is counted."""
    draws = len(found)
    below, above = int((found <= 0).sum()), int((found >= 0).sum())
    return min(1.0, 2 * (min(below, above) + 1) / (draws + 1))


def _paired_effect(first: Values, second: Values) -> float | None:
    if first.shape[1] != 1:
        return None
    apart = (second - first)[:, 0]
    spread = float(apart.std(ddof=1))
    return float(apart.mean()) / spread if spread > 0 else None
