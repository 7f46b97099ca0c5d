"""Which source the next row comes from: shares hold within one row at any time.

A source with the share w has to give its (j + 1)-th row after j / w rows of the mixture
and before (j + 1) / w. As the shares add up to one, rows that are given to the source
with the earliest end, among those that have begun, all keep to these times: this is
scheduling by the earliest deadline on one machine that is always busy (Liu and Layland,
1973), known as Pfair scheduling (Baruah et al., 1996) and, for seats of a parliament,
as the quota method (Balinski and Young, 1975). So after n rows every source has given
more than n * w - 1 and less than n * w + 1 of them.

All is computed in whole numbers, so that no rounding adds up over a long run.
"""

from __future__ import annotations

from bisect import bisect_right
from collections.abc import Sequence

UNITS = 2**40
"""The share of one, in the whole numbers in which shares are computed."""

Weights = tuple[float, ...]
"""The share of each source; together one."""


def in_units(weights: Sequence[float]) -> tuple[int, ...]:
    """Weights as whole numbers; one that is not 0 stays above 0."""
    total = sum(weights)
    return tuple(max(1, round(w / total * UNITS)) if w > 0 else 0 for w in weights)


def next_source(units: Sequence[int], given: Sequence[int]) -> int:
    """The source of the next row.

    Args:
        units: the shares, of `in_units`.
        given: the rows of each source since the shares hold.
    """
    number, total = sum(given) + 1, sum(units)
    best = -1
    for source, (unit, rows) in enumerate(zip(units, given, strict=True)):
        if rows * total >= number * unit:
            continue  # it would be ahead of its share by a row or more
        # (rows + 1) / unit is when its next row is due.
        if best < 0 or (rows + 1) * units[best] < (given[best] + 1) * unit:
            best = source
    return best


class ShareSchedule:
    """Shares that may change at given rows of a run.

    Args:
        points: (steps done, the shares from there on); the first is for step 0.
        step_rows: rows of a step.
    """

    def __init__(
        self, points: Sequence[tuple[int, Weights]], step_rows: int = 1
    ) -> None:
        self.points = tuple(points)
        self.step_rows = step_rows

    def at(self, row: int, step_rows: int | None = None) -> Weights:
        """The shares of the row that follows `row` rows."""
        steps = row // (step_rows or self.step_rows)
        place = bisect_right(self.points, steps, key=lambda point: point[0])
        return self.points[place - 1][1]
