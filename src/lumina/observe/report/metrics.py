"""The figures of metrics.jsonl as columns, so that a long run fits into memory."""

from __future__ import annotations

from array import array
from collections import deque
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

import numpy as np
import numpy.typing as npt

from lumina import quantities as q

Values = npt.NDArray[np.float64]
Row = Mapping[str, Any]

RECENT_ROWS = 100
"""Rows whose figures for each layer and expert are kept as they are."""

MOST_PARTS = 16
"""Experts, or other second axes of a figure, that get a column each."""


@dataclass
class _Column:
    """One figure: where it was reported and what it was.

    Attributes:
        low: lowest of a list of values (one for each layer); empty for plain numbers.
            `high` likewise.
    """

    steps: array[float] = field(default_factory=lambda: array("d"))
    values: array[float] = field(default_factory=lambda: array("d"))
    low: array[float] = field(default_factory=lambda: array("d"))
    high: array[float] = field(default_factory=lambda: array("d"))


@dataclass(frozen=True)
class Column:
    """The finite values of one figure, by step.

    Attributes:
        steps: where the figure was reported.
        values: the figure; the mean where the run reports one for each layer.
        low: the lowest layer's; equal to `values` for a plain number.
        high: the highest layer's.
    """

    steps: Values
    values: Values
    low: Values
    high: Values

    def __len__(self) -> int:
        return len(self.steps)

    @property
    def layered(self) -> bool:
        """Whether layers differ."""
        return bool((self.low != self.high).any())


class Metrics:
    """All rows of a run, read once.

    Args:
        rows: in the order of their steps; rows without a step are left out.

    Attributes:
        first: the first row; empty where there is none.
        last: the last row.
        recent: the last rows, at most `RECENT_ROWS`.
        count: how many rows there are.
    """

    def __init__(self, rows: Iterable[Row] = ()) -> None:
        self.first: Row = {}
        self.last: Row = {}
        self.count = 0
        self.recent: deque[Row] = deque(maxlen=RECENT_ROWS)
        self._columns: dict[str, _Column] = {}
        for row in rows:
            self._add(row)

    def _add(self, row: Row) -> None:
        step = q.known(row.get("step"))
        if step is None:
            return
        self.first = self.first or row
        self.last = row
        self.count += 1
        self.recent.append(row)
        for key, value in row.items():
            if isinstance(value, list):
                self._add_list(key, step, value)
            elif (number := q.known(value)) is not None:
                column = self._column(key)
                column.steps.append(step)
                column.values.append(number)

    def _add_list(self, key: str, step: float, value: Sequence[Any]) -> None:
        if value and all(isinstance(item, list) for item in value):
            # One list for each layer, such as the load of each expert.
            if 0 < len(value[0]) <= MOST_PARTS and len(set(map(len, value))) == 1:
                for part, layers in enumerate(zip(*value, strict=True)):
                    self._add_list(f"{key}[{part}]", step, layers)
            return
        numbers = [n for item in value if (n := q.known(item)) is not None]
        if numbers:
            column = self._column(key)
            column.steps.append(step)
            column.values.append(sum(numbers) / len(numbers))
            column.low.append(min(numbers))
            column.high.append(max(numbers))

    def _column(self, key: str) -> _Column:
        column = self._columns.get(key)
        if column is None:
            column = self._columns[key] = _Column()
        return column

    @property
    def keys(self) -> tuple[str, ...]:
        """Names of the figures that any row has a number for."""
        return tuple(self._columns)

    def column(self, key: str) -> Column:
        """One figure by step; empty where no row has it."""
        found = self._columns.get(key) or _Column()
        steps, values = np.array(found.steps), np.array(found.values)
        if len(found.low) != len(values):  # plain numbers
            return Column(steps, values, values, values)
        return Column(steps, values, np.array(found.low), np.array(found.high))

    def values(self, key: str) -> Values:
        """The values of a figure alone."""
        return self.column(key).values
