"""The few tests and bounds that verdicts rest on, without a package for them."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence


def mean_and_error(values: Sequence[float]) -> tuple[float, float]:
    """The mean of two values and more, and its standard error."""
    count = len(values)
    mean = sum(values) / count
    variance = sum((x - mean) ** 2 for x in values) / (count - 1)
    return mean, math.sqrt(variance / count)


def t_tail(t: float, freedom: int) -> float:
    """The chance that Student's t with `freedom` degrees is above `t`."""
    if math.isinf(t):
        return 0.0 if t > 0 else 1.0
    half = 0.5 * beta_share(freedom / (freedom + t * t), freedom / 2, 0.5)
    return half if t >= 0 else 1.0 - half


def above(values: Sequence[float], bound: float) -> float:
    """p of "their expectation is at most `bound`", by a one-sided t-test."""
    if len(values) < 2:
        return 1.0
    mean, error = mean_and_error(values)
    if error == 0:
        return 0.0 if mean > bound else 1.0
    return t_tail((mean - bound) / error, len(values) - 1)


def lower_bound(values: Sequence[float], alpha: float) -> float:
    """What their expectation is above, with confidence 1 - alpha."""
    if len(values) < 2:
        return -math.inf
    mean, error = mean_and_error(values)
    return mean - t_quantile(alpha, len(values) - 1) * error


def t_quantile(tail: float, freedom: int) -> float:
    """What Student's t exceeds with the chance `tail`, which is below a half."""
    low, high = 0.0, 1e6
    for _ in range(200):
        middle = (low + high) / 2
        low, high = (middle, high) if t_tail(middle, freedom) > tail else (low, middle)
    return (low + high) / 2


def holm(chances: Mapping[str, float], alpha: float) -> frozenset[str]:
    """The hypotheses that are rejected together (Holm, 1979).

    The chance that any true one is among them is at most `alpha`, however they depend
    on each other.

    Args:
        chances: hypothesis -> its p.
        alpha: for all of them together.
    """
    rejected: list[str] = []
    for place, name in enumerate(sorted(chances, key=lambda key: chances[key])):
        if chances[name] > alpha / (len(chances) - place):
            break
        rejected.append(name)
    return frozenset(rejected)


def exact_bounds(hits: int, tries: int, alpha: float = 0.05) -> tuple[float, float]:
    """The two-sided bounds of a share by Clopper and Pearson (1934).

    Args:
        hits: how often it happened.
        tries: of how many.
        alpha: the chance that the share is outside, half on either side.
    """
    low = 0.0 if hits == 0 else _solved(alpha / 2, hits, tries - hits + 1)
    high = 1.0 if hits == tries else _solved(1 - alpha / 2, hits + 1, tries - hits)
    return low, high


def _solved(share: float, a: float, b: float) -> float:
    """Where the beta distribution's sum reaches `share`."""
    low, high = 0.0, 1.0
    for _ in range(100):
        middle = (low + high) / 2
        low, high = (
            (middle, high) if beta_share(middle, a, b) < share else (low, middle)
        )
    return (low + high) / 2


def beta_share(x: float, a: float, b: float) -> float:
    """The regularised incomplete beta function I_x(a, b), by its continued fraction.

    Lentz's method; Press et al., Numerical Recipes, 3rd edition, section 6.4.
    """
    if x <= 0 or x >= 1:
        return float(x >= 1)
    if x > (a + 1) / (a + b + 2):
        return 1.0 - beta_share(1.0 - x, b, a)
    tiny = 1e-300
    c, d = 1.0, 1.0 / (_off(1.0 - (a + b) * x / (a + 1), tiny))
    found = d
    for m in range(1, 500):
        even = m * (b - m) * x / ((a + 2 * m - 1) * (a + 2 * m))
        odd = -(a + m) * (a + b + m) * x / ((a + 2 * m) * (a + 2 * m + 1))
        for term in (even, odd):
            d = 1.0 / _off(1.0 + term * d, tiny)
            c = _off(1.0 + term / c, tiny)
            found *= c * d
        if abs(c * d - 1.0) < 1e-15:
            break
    front = math.lgamma(a + b) - math.lgamma(a) - math.lgamma(b)
    front += a * math.log(x) + b * math.log1p(-x)
    return math.exp(front) * found / a


def _off(value: float, tiny: float) -> float:
    """The value, or something tiny in place of 0."""
    return value if abs(value) > tiny else tiny
