"""The order of rows: a pure function of the seed, the data and how far it was read.

A run is one endless sequence of rows, numbered from 0. A step takes the next
`global_batch_size` of them, whatever the number of ranks; so a run can stop anywhere
and go on elsewhere.
"""

from __future__ import annotations

import hashlib
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any, Protocol

import numpy as np
from numpy.typing import NDArray

EMPTY = -1
"""The number of a row that only fills up a batch."""

RowId = tuple[int, int]
"""(epoch, number of the row in the data)."""


@dataclass(frozen=True)
class Cursor:
    """How far the data has been read: `row` rows of epoch `epoch` are done."""

    epoch: int = 0
    row: int = 0

    def to_dict(self) -> dict[str, int]:
        """Plain JSON values."""
        return {"epoch": self.epoch, "row": self.row}

    @staticmethod
    def from_dict(values: dict[str, Any]) -> Cursor:
        """The inverse of `to_dict`."""
        return Cursor(int(values["epoch"]), int(values["row"]))


def permutation(
    count: int, seed: int, epoch: int, fingerprint: str
) -> NDArray[np.int64]:
    """The order of `count` rows: a pure function of its arguments."""
    name = f"{seed}:{epoch}:{fingerprint}".encode()
    key = int.from_bytes(hashlib.sha256(name).digest()[:16], "little")
    return np.random.Generator(np.random.Philox(key=key)).permutation(count)


class Sequenced(Protocol):
    """A run's endless sequence of rows."""

    @property
    def rows_per_epoch(self) -> int:
        """Rows of one pass over the data."""

    def row_ids(self, begin: int, end: int) -> list[RowId]:
        """The rows begin .. end - 1 of the run."""


class Shuffle:
    """Every row once an epoch, each epoch in an order of its own.

    Args:
        rows: how many there are.
        seed: with the epoch and the fingerprint, decides the order.
        fingerprint: names the content of the data.
    """

    def __init__(self, rows: int, *, seed: int, fingerprint: str) -> None:
        self._rows = rows
        self._seed = seed
        self._fingerprint = fingerprint
        self._orders: dict[int, NDArray[np.int64]] = {}

    @property
    def rows_per_epoch(self) -> int:
        """All rows."""
        return self._rows

    def row_ids(self, begin: int, end: int) -> list[RowId]:
        """The rows begin .. end - 1 of the run."""
        ids: list[RowId] = []
        while begin < end:
            epoch, row = divmod(begin, self._rows)
            rows = self._order(epoch)[row : row + end - begin]
            ids += [(epoch, r) for r in rows.tolist()]
            begin += len(rows)
        return ids

    def _order(self, epoch: int) -> NDArray[np.int64]:
        """The permutation of an epoch; the two last used are kept."""
        if epoch not in self._orders:
            for old in [e for e in self._orders if abs(e - epoch) > 1]:
                del self._orders[old]
            self._orders[epoch] = permutation(
                self._rows, self._seed, epoch, self._fingerprint
            )
        return self._orders[epoch]


class Turns:
    """Several sets of rows, one row of each in turn; each set has epochs of its own.

    A pass over the data is over when the largest set was seen once; the others have
    been seen more often by then. Rows are numbered through: those of the second set
    begin where the first set's end.
    """

    def __init__(self, sets: Sequence[Shuffle]) -> None:
        self._sets = tuple(sets)
        sizes = [one.rows_per_epoch for one in self._sets]
        self._first = np.concatenate([[0], np.cumsum(sizes)]).tolist()

    @property
    def rows_per_epoch(self) -> int:
        """As many turns as the largest set has rows."""
        return len(self._sets) * max(one.rows_per_epoch for one in self._sets)

    def row_ids(self, begin: int, end: int) -> list[RowId]:
        """The rows begin .. end - 1 of the run; epochs are those of the row's set."""
        count = len(self._sets)
        ids: list[RowId | None] = [None] * (end - begin)
        for place, rows in enumerate(self._sets):
            # Turns of this set before `begin`, and before `end`.
            done, due = ((n - place - 1) // count + 1 for n in (begin, end))
            start = done * count + place - begin
            ids[start::count] = [
                (epoch, row + self._first[place])
                for epoch, row in rows.row_ids(done, due)
            ]
        return [one for one in ids if one is not None]


@dataclass(frozen=True)
class Taken:
    """The rows of one step.

    Attributes:
        begin: rows of the run before them.
        row_ids: the rows; fewer than a global batch where the run ends.
        cursor: where the next step begins.
        epoch: passes over the data completed after this step, with its fraction.
    """

    begin: int
    row_ids: list[RowId]
    cursor: Cursor
    epoch: float

    def rows(self, size: int) -> NDArray[np.int64]:
        """[size] row numbers, filled up with `EMPTY`."""
        rows = np.full(size, EMPTY, dtype=np.int64)
        rows[: len(self.row_ids)] = [row for _, row in self.row_ids]
        return rows


class RowOrder:
    """Cuts a run's sequence of rows into steps.

    Args:
        sequence: the rows.
        global_batch_size: rows of a step, over all ranks.
        epochs: passes over the data, perhaps fractional; None: without end.
    """

    def __init__(
        self, sequence: Sequenced, *, global_batch_size: int, epochs: float | None
    ) -> None:
        self._sequence = sequence
        self.global_batch_size = global_batch_size
        self.rows_per_epoch = sequence.rows_per_epoch
        self.total_rows = (
            None if epochs is None else max(1, round(epochs * self.rows_per_epoch))
        )

    @property
    def steps(self) -> int | None:
        """Steps until the data ends, or None when it does not."""
        if self.total_rows is None:
            return None
        return -(-self.total_rows // self.global_batch_size)

    def take(self, cursor: Cursor) -> Taken | None:
        """The rows of the step that begins at `cursor`; None at the end."""
        begin = cursor.epoch * self.rows_per_epoch + cursor.row
        end = begin + self.global_batch_size
        if self.total_rows is not None:
            if begin >= self.total_rows:
                return None
            end = min(end, self.total_rows)
        return Taken(
            begin=begin,
            row_ids=self._sequence.row_ids(begin, end),
            cursor=Cursor(*divmod(end, self.rows_per_epoch)),
            epoch=end / self.rows_per_epoch,
        )
