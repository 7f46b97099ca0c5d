"""Where the loss of a run is going, and how far that can be said.

Curves that level off, `E + A t^-b` and `E + A exp(-t / T)`, and one of degree two are
fitted to the means of stretches of the run. What the last stretches show, beside what
the earlier ones had predicted of them, says how good a curve is and how wide its
interval has to be. Where none fits, there is no prediction.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from functools import partial
from typing import Any, NamedTuple

import numpy as np

LEAST_POINTS, LEAST_STEPS = 8, 32
"""Stretches, and steps in them, without which nothing is predicted."""

CONVERGED = 1.01
"""The loss has converged where twice the steps would bring it down by less than 1%."""

HORIZON = 1000
"""Steps ahead in which convergence is looked for, or as far as the run goes."""

WIDTH = 1.3
"""Half of an interval by its measured error, so that the interval holds the loss in 9
cases of 10; calibrated by `benchmarks/predictions.py`."""

AHEAD = 0.75
"""An error grows by this power of how far ahead the end is."""

CLOSE = 0.05
"""The confidence is the chance that the loss comes this close to what is expected."""

POWERS = tuple(0.1 * 1.25**n for n in range(14))
"""Powers of the step that are tried, 0.1 to 1.8."""

LENGTHS = tuple(0.1 * 1.25**n for n in range(14))
"""Lengths of an exponential that are tried, by the steps that were seen."""

UNFIT = 0.03
"""A curve that misses the loss by this share of it, beyond the noise, is none."""

OPEN = 0.4
"""An interval that reaches further than this share of the loss says nothing."""

COVERED = 1.645
"""Standard deviations of a normal distribution within which 9 of 10 values lie."""


class Point(NamedTuple):
    """A stretch of a run.

    Attributes:
        step: its middle.
        loss: its mean.
        error: the standard error of that mean.
        rate: the mean learning rate, as a share of its peak.
    """

    step: float
    loss: float
    error: float
    rate: float = 1.0


@dataclass(frozen=True)
class Prediction:
    """What is expected of a run; `reason` says why where nothing is.

    Attributes:
        predicted_convergence_step: the first step after which twice the steps bring
            less than 1%; None where that is beyond the horizon.
        steps_remaining: until then, 0 where it is over.
        confidence: the chance that the final loss comes within 5% of what is expected.
        expected_final_loss: the loss at the end.
        interval: what holds it in 9 cases of 10.
        form: of the curve.
        reason: why there is no prediction; empty where there is one.
    """

    predicted_convergence_step: int | None = None
    steps_remaining: int | None = None
    confidence: float = 0.0
    expected_final_loss: float | None = None
    interval: tuple[float, float] | None = None
    form: str = ""
    reason: str = ""

    def to_dict(self) -> dict[str, Any]:
        """Plain JSON values, under the names of the attributes."""
        return {**self.__dict__, "interval": self.interval and list(self.interval)}


Basis = Callable[[np.ndarray], list[np.ndarray]]
"""From steps to the columns beside the constant one."""


class _Fit(NamedTuple):
    name: str
    basis: Basis
    weights: np.ndarray
    rated: bool

    def at(self, steps: np.ndarray, rates: np.ndarray) -> np.ndarray:
        """[n] the losses of steps."""
        columns = _columns(self.basis, steps, rates, self.rated)
        found: np.ndarray = columns @ self.weights
        return found


def predict(
    points: Sequence[Point],
    now: int,
    end: int,
    rate_at: Callable[[int], float] = lambda _: 1.0,
) -> Prediction:
    """Predict the loss at the end of a run, and when it converges.

    Args:
        points: stretches of the run after its warm-up, in their order.
        now: steps that are done.
        end: the step whose loss is asked for.
        rate_at: the learning rate of a step, as a share of its peak.
    """
    if len(points) < LEAST_POINTS or now - points[0].step < LEAST_STEPS:
        return Prediction(reason="too few steps since the warm-up")
    third = max(len(points) // 4, 2)
    latest = points[-third:]
    level = sum(point.loss for point in latest) / third
    lowest = min(point.loss for point in points)
    noise = math.sqrt(sum(point.error**2 for point in points) / len(points))
    if level > lowest + max(4 * noise, 0.05 * lowest):
        return Prediction(reason="the loss is above what it was before")
    earlier = points[:-third]
    trials = [
        (abs(_mean(fit, latest) - level), fit.name)
        for fit in _fits(earlier)
        if _sane(fit, earlier, end, rate_at)
    ]
    fits = {f.name: f for f in _fits(points) if _sane(f, points, end, rate_at)}
    trials = [trial for trial in trials if trial[1] in fits]
    if not trials:
        return Prediction(reason="no curve that levels off fits the loss")
    missed, name = min(trials)
    if missed > max(UNFIT * level, 4 * noise):
        return Prediction(reason="the loss does not follow a curve that levels off")
    fit = fits[name]
    last = np.array([float(end)])
    final = float(fit.at(last, np.array([rate_at(end)]))[0])
    good = {name for miss, name in trials if miss < 2 * missed}
    others = [
        float(fits[other].at(last, np.array([rate_at(end)]))[0])
        for other in sorted(good - {name})
    ]
    # How far ahead it is, in stretches as long as the one that was predicted.
    far = (1 + max(end - now, 0) / max(now - latest[0].step, 1)) ** AHEAD
    apart = max((abs(other - final) for other in others), default=0.0)
    half = WIDTH * math.hypot(max(missed, noise) * far, apart / 2, noise)
    # What the rate does to the loss is only known of rates that there were.
    seen = [point.rate for point in points]
    strange = max(min(seen) - rate_at(end), rate_at(end) - max(seen), 0.0)
    half += 0.1 * strange * level
    if half > OPEN * final:
        return Prediction(reason=f"more than {OPEN:.0%} of the final loss is open")
    sure = math.erf(CLOSE * final / (half / COVERED) / math.sqrt(2)) if half else 1.0
    step = _convergence(fit, now, min(max(end, now + HORIZON), 4 * now))
    return Prediction(
        predicted_convergence_step=step,
        steps_remaining=None if step is None else max(step - now, 0),
        confidence=min(sure, 0.95),
        expected_final_loss=final,
        interval=(max(final - half, 0.0), final + half),
        form=name,
    )


def _forms(points: Sequence[Point]) -> Iterator[tuple[str, Basis]]:
    """Every curve that is tried."""
    for power in POWERS:
        yield "power", partial(_power, power)
    span = points[-1].step - points[0].step
    for share in LENGTHS:
        yield "exponential", partial(_exponential, points[0].step, share * span)
    yield "degree 2", partial(_degree_2, points[-1].step)


def _power(power: float, steps: np.ndarray) -> list[np.ndarray]:
    return [steps**-power]


def _exponential(begin: float, length: float, steps: np.ndarray) -> list[np.ndarray]:
    return [np.exp((begin - steps) / length)]


def _degree_2(scale: float, steps: np.ndarray) -> list[np.ndarray]:
    return [steps / scale, (steps / scale) ** 2]


def _fits(points: Sequence[Point]) -> list[_Fit]:
    """The best curve of each form, by least squares."""
    steps = np.array([point.step for point in points])
    losses = np.array([point.loss for point in points])
    rates = np.array([point.rate for point in points])
    rated = bool(rates.max() - rates.min() > 0.1)
    best: dict[str, tuple[float, _Fit]] = {}
    for name, basis in _forms(points):
        matrix = _columns(basis, steps, rates, rated)
        weights = np.linalg.lstsq(matrix, losses, rcond=None)[0]
        if rated and weights[-1] < 0:  # a lower rate has never raised the loss
            matrix, weights = matrix[:, :-1], weights[:-1]
            weights = np.linalg.lstsq(matrix, losses, rcond=None)[0]
            weights = np.append(weights, 0.0)
            matrix = _columns(basis, steps, rates, rated)
        rest = float(((matrix @ weights - losses) ** 2).sum())
        if name not in best or rest < best[name][0]:
            best[name] = (rest, _Fit(name, basis, weights, rated))
    return [fit for _, fit in best.values()]


def _columns(
    basis: Basis, steps: np.ndarray, rates: np.ndarray, rated: bool
) -> np.ndarray:
    columns = [np.ones_like(steps), *basis(steps), *([rates] if rated else [])]
    return np.stack(columns, axis=1)


def _mean(fit: _Fit, points: Sequence[Point]) -> float:
    steps = np.array([point.step for point in points])
    rates = np.array([point.rate for point in points])
    return float(fit.at(steps, rates).mean())


def _sane(
    fit: _Fit, points: Sequence[Point], end: int, rate_at: Callable[[int], float]
) -> bool:
    """Whether a curve stays above 0 and does not rise before the end."""
    last = points[-1].step
    steps = np.linspace(last, max(float(end), last + 1), 8)
    found = fit.at(steps, np.array([rate_at(int(step)) for step in steps]))
    level = np.full_like(steps, points[-1].rate)
    falling = fit.at(steps, level)
    slack = 1e-3 * abs(points[-1].loss)
    return bool(found.min() > 0 and (np.diff(falling) <= slack).all())


def _convergence(fit: _Fit, now: int, last: int) -> int | None:
    """The first step from which twice the steps bring less than 1%, at an even rate."""
    step = float(now)
    while step <= last:
        both = fit.at(np.array([step, 2 * step]), np.zeros(2))
        if fit.name == "degree 2":  # it says nothing of what is far away
            both = fit.at(np.array([step, 1.1 * step]), np.zeros(2))
        if both[0] <= CONVERGED * both[1]:
            return round(step)
        step = max(step * 1.02, step + 1)
    return None
