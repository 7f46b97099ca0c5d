"""What a sweep of learning rates says: where the loss falls most steeply.

Smith, 2015, arXiv:1506.01186, sweeps the rate within one run; the choice where the loss
falls most steeply over the logarithm of the rate is that of the fastai library.
"""

from __future__ import annotations

import math
import statistics
from collections.abc import Sequence
from dataclasses import dataclass

WINDOW = 20
"""One part in this many of the sweep is what a loss is averaged over."""

DIVERGED = 4.0
"""A smoothed loss that is this many times the lowest ends a sweep."""

LEAST_FALL = 0.01
"""Share of the first loss by which the loss has to fall for a rate to be suggested."""


@dataclass(frozen=True)
class Suggestion:
    """What was found in a sweep.

    Attributes:
        rate: the suggested peak rate; None where the loss did not fall.
        how: how it was chosen, or why there is none.
        lowest: the rate at the lowest smoothed loss.
        lowest_loss: that loss.
        diverged: the rate at which the sweep was ended by its loss; None: it was not.
        smoothed: the losses, averaged over their neighbours.
    """

    rate: float | None
    how: str
    lowest: float
    lowest_loss: float
    diverged: float | None
    smoothed: list[float]


def smoothed(losses: Sequence[float]) -> list[float]:
    """Means over a window of odd length around each loss, shorter at the ends."""
    reach = max(len(losses) // WINDOW // 2, 1)
    return [
        statistics.fmean(losses[max(n - reach, 0) : n + reach + 1])
        for n in range(len(losses))
    ]


def diverges(losses: Sequence[float]) -> bool:
    """Whether the sweep is over: the loss is not finite, or far above the lowest."""
    last = losses[-1]
    return not math.isfinite(last) or last > DIVERGED * min(losses)


def suggest(rates: Sequence[float], losses: Sequence[float]) -> Suggestion:
    """Where the loss falls most steeply before its minimum, over the log of the rate.

    Args:
        rates: of the steps, rising.
        losses: of the same steps, before each was taken; the last may be the one that
            ended the sweep.
    """
    diverged = rates[-1] if diverges(losses) else None
    kept = len(losses) - (diverged is not None)
    if kept < 3:
        words = f"the loss diverged at {rates[-1]:.2g} before it could fall"
        first = losses[0]
        return Suggestion(None, words, rates[0], first, diverged, list(losses[:kept]))
    line = smoothed(losses[:kept])
    best = min(range(kept), key=line.__getitem__)
    found = Suggestion(None, "", rates[best], line[best], diverged, line)
    if line[0] - line[best] < LEAST_FALL * abs(line[0]):
        why = (
            f"the loss never fell by {LEAST_FALL:.0%} of {line[0]:.4g}: take more "
            "steps, or a wider range of rates"
        )
        return _with(found, None, why)
    # Weights move after the loss is taken, so that the slope over two neighbours is
    # the work of the rate between them.
    slopes = [
        (line[n + 1] - line[n - 1]) / math.log(rates[n + 1] / rates[n - 1])
        for n in range(1, max(best, 2))
    ]
    steepest = 1 + min(range(len(slopes)), key=slopes.__getitem__)
    how = (
        f"the smoothed loss falls most steeply there, over the logarithm of the rate; "
        f"it is lowest at {rates[best]:.2g}"
    )
    if diverged is not None:
        how += f", and diverges at {diverged:.2g}"
    return _with(found, float(f"{rates[steepest]:.2g}"), how)


def _with(found: Suggestion, rate: float | None, how: str) -> Suggestion:
    return Suggestion(
        rate, how, found.lowest, found.lowest_loss, found.diverged, found.smoothed
    )
