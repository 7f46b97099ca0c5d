"""The loss that is to be expected if nothing is changed."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import asdict, dataclass
from typing import Any

from lumina.train.health.check import mean, median
from lumina.train.health.phases import BEGINNING

LEAST = 8
"""Losses without which nothing is predicted."""

LATEST = 3
"""Losses whose median is the present level."""

DEVIATION = 1.4826
"""Median absolute deviations in a standard deviation of normal noise."""


@dataclass(frozen=True)
class Forecast:
    """A straight line through losses over the logarithm of the step, and beyond them.

    A loss that falls as a power of the step falls almost like that for a while. The
    slope is the median of the slopes between all pairs of losses (Theil 1950, Sen
    1968), so that a few steps that stand out do not matter. Where the last of them
    stand out, whatever is wrong is expected to stay: the line is raised to their
    median.

    Attributes:
        place: the middle of the logarithms of the steps.
        level: the loss there.
        slope: change of the loss where the logarithm grows by one.
        width: standard deviation of the logarithms.
        raised: how far the latest losses lie above the line; 0 where they do not.
        spread: standard deviation of the losses around the line, by their median
            absolute deviation.
        count: losses that the line was drawn through.
    """

    place: float
    level: float
    slope: float
    width: float
    raised: float
    spread: float
    count: int

    def over(self, steps: Sequence[float]) -> float:
        """The mean loss that is expected in some steps, not below 0."""
        return max(self.level + self.slope * self._away(steps) + self.raised, 0.0)

    def error(self, steps: Sequence[float]) -> float:
        """The standard error of the mean of measured losses minus the expected mean."""
        away = self._away(steps) / self.width
        return self.spread * math.sqrt(1 / len(steps) + (1 + away * away) / self.count)

    def _away(self, steps: Sequence[float]) -> float:
        return mean([math.log(step) for step in steps]) - self.place

    def to_dict(self) -> dict[str, Any]:
        """Plain JSON values; `Forecast(**values)` is the inverse."""
        return asdict(self)


def forecast(points: Sequence[Sequence[float]], phase: str = "") -> Forecast | None:
    """The line through finite losses.

    Nothing is predicted from the first steps of a run: the loss falls steeply in them
    and levels off soon, so that a line through them ends far too low.

    Args:
        points: (step, loss) in the order of the steps, which begin at 1.
        phase: of the training.

    Returns:
        None where there are too few, or in the first phase.
    """
    if len(points) < LEAST or phase == BEGINNING:
        return None
    latest = median([loss for _, loss in points[-LATEST:]])
    if points[0][0] < len(points):
        points = points[len(points) // 2 :]  # a loss falls in another way at first
    places = [math.log(step) for step, _ in points]
    losses = [loss for _, loss in points]
    slope = median(
        [
            (losses[j] - losses[i]) / (places[j] - places[i])
            for j in range(len(points))
            for i in range(j)
        ]
    )
    place = mean(places)
    pairs = list(zip(places, losses, strict=True))
    level = median([loss - slope * (x - place) for x, loss in pairs])
    apart = [abs(loss - level - slope * (x - place)) for x, loss in pairs]
    at_end = level + slope * (places[-1] - place)
    spread = DEVIATION * median(apart)
    above = latest - at_end
    return Forecast(
        place=place,
        level=level,
        slope=slope,
        width=math.sqrt(mean([(x - place) ** 2 for x in places])),
        raised=above if above > 3 * spread else 0.0,
        spread=spread,
        count=len(points),
    )
