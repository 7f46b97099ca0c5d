"""The order of rows: a pure function of the seed, the data and how far it was read.

A run is one sequence of rows. A step takes the next `global_batch_size` of them,
whatever the number of ranks; so a run can stop anywhere and go on elsewhere. Where a
step begins is a `Cursor`. What it contains is decided by the sequence, and nothing else
reads it: the loop hands it back, and checkpoints keep it.
"""

from __future__ import annotations

import hashlib
from abc import ABC, abstractmethod
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any, Protocol

import numpy as np
from numpy.typing import NDArray

EMPTY = -1
"""The number of a row that only fills up a batch."""

RowId = tuple[int, int]
"""(epoch, number of the row in the data)."""

Cursor = Mapping[str, Any]
"""How far a sequence has been read: plain JSON values that only the sequence reads."""


@dataclass(frozen=True)
class Taken:
    """The rows of one step.

    Attributes:
        begin: rows of the run before them.
        row_ids: names of the rows; fewer than a global batch where the data ends.
        cursor: where the next step begins.
        epoch: passes over the data completed after this step, with its fraction; None
            where the data has no known number of rows.
        contents: the rows themselves, one for each of `row_ids`, where the sequence
            reads them as it goes; empty where their names say where they stand.
        facts: further numbers about the step that the sequence knows, for the metrics.
        events: what happened while they were read, as arguments of an event.
    """

    begin: int
    row_ids: list[RowId]
    cursor: Cursor
    epoch: float | None
    contents: Sequence[Any] = ()
    facts: Mapping[str, float] = field(default_factory=dict)
    events: Sequence[Mapping[str, Any]] = ()

    def rows(self, size: int) -> NDArray[np.int64]:
        """[size] row numbers, filled up with `EMPTY`."""
        rows = np.full(size, EMPTY, dtype=np.int64)
        rows[: len(self.row_ids)] = [row for _, row in self.row_ids]
        return rows


class Sequenced(Protocol):
    """A run's sequence of rows; it may be made of other sequences."""

    @property
    def rows_per_epoch(self) -> int | None:
        """Rows of one pass over the data; None where that is not known."""

    @property
    def start(self) -> Cursor:
        """The cursor before the first row."""

    def rows_before(self, cursor: Cursor) -> int:
        """How many rows of the run come before a cursor."""

    def take(self, cursor: Cursor, count: int) -> Taken:
        """The next `count` rows, or fewer at the end of the data.

        A pure function: the same cursor and count always give the same rows, and
        two calls give the rows of one call for both.
        """


def permutation(
    count: int, seed: int, epoch: int, fingerprint: str
) -> NDArray[np.int64]:
    """The order of `count` rows: a pure function of its arguments."""
    name = f"{seed}:{epoch}:{fingerprint}".encode()
    key = int.from_bytes(hashlib.sha256(name).digest()[:16], "little")
    return np.random.Generator(np.random.Philox(key=key)).permutation(count)


class Numbered(ABC):
    """A sequence without end whose rows can be looked up by their number in the run.

    Its cursor says how many epochs are done, and how many rows of the next one.
    """

    @property
    @abstractmethod
    def rows_per_epoch(self) -> int:
        """Rows of one pass over the data."""

    @abstractmethod
    def row_ids(self, begin: int, end: int) -> list[RowId]:
        """The rows begin .. end - 1 of the run."""

    @property
    def start(self) -> Cursor:
        """The first row of the first epoch."""
        return {"epoch": 0, "row": 0}

    def rows_before(self, cursor: Cursor) -> int:
        """All rows of the epochs that are done, and some of the next one."""
        return int(cursor["epoch"]) * self.rows_per_epoch + int(cursor["row"])

    def take(self, cursor: Cursor, count: int) -> Taken:
        """The next `count` rows; there are always more."""
        begin = self.rows_before(cursor)
        end = begin + count
        epoch, row = divmod(end, self.rows_per_epoch)
        return Taken(
            begin=begin,
            row_ids=self.row_ids(begin, end),
            cursor={"epoch": epoch, "row": row},
            epoch=end / self.rows_per_epoch,
        )


class Shuffle(Numbered):
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

    def in_epoch(self, epoch: int) -> NDArray[np.int64]:
        """The rows of an epoch, in their order: a pure function of the epoch."""
        return permutation(self._rows, self._seed, epoch, self._fingerprint)

    def _order(self, epoch: int) -> NDArray[np.int64]:
        """The rows of an epoch; those of the two last used are kept."""
        if epoch not in self._orders:
            for old in [e for e in self._orders if abs(e - epoch) > 1]:
                del self._orders[old]
            self._orders[epoch] = self.in_epoch(epoch)
        return self._orders[epoch]


class Linear(Numbered):
    """Every row once an epoch, always in the order in which the rows stand.

    Args:
        rows: how many there are.
        first: rows passed over at the start of the run.
    """

    def __init__(self, rows: int, *, first: int = 0) -> None:
        self._rows = rows
        self._first = first

    @property
    def rows_per_epoch(self) -> int:
        """All rows."""
        return self._rows

    @property
    def start(self) -> Cursor:
        """The first row that is not passed over."""
        return {"epoch": 0, "row": self._first}

    def row_ids(self, begin: int, end: int) -> list[RowId]:
        """The rows begin .. end - 1 of the run."""
        return [divmod(row, self._rows) for row in range(begin, end)]


class Turns(Numbered):
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


class RowOrder:
    """Cuts a run's sequence of rows into steps.

    Args:
        sequence: the rows.
        global_batch_size: rows of a step, over all ranks.
        epochs: passes over the data, perhaps fractional; None: until the data ends.
            Of data without a known number of rows it has to be None.
    """

    def __init__(
        self, sequence: Sequenced, *, global_batch_size: int, epochs: float | None
    ) -> None:
        self._sequence = sequence
        self.global_batch_size = global_batch_size
        self.rows_per_epoch = sequence.rows_per_epoch
        self.total_rows = None
        if epochs is not None and self.rows_per_epoch is not None:
            self.total_rows = max(1, round(epochs * self.rows_per_epoch))

    @property
    def start(self) -> Cursor:
        """Where the first step begins."""
        return self._sequence.start

    def epochs_before(self, cursor: Cursor) -> float | None:
        """Passes over the data before a cursor; None where they are not known."""
        if self.rows_per_epoch is not None:
            return self._sequence.rows_before(cursor) / self.rows_per_epoch
        counted = getattr(self._sequence, "epochs_before", None)
        return None if counted is None else float(counted(cursor))

    @property
    def steps(self) -> int | None:
        """Steps until the data ends, or None where that is not known."""
        if self.total_rows is None:
            return None
        return -(-self.total_rows // self.global_batch_size)

    def take(self, cursor: Cursor) -> Taken | None:
        """The rows of the step that begins at `cursor`; None at the end."""
        count = self.global_batch_size
        if self.total_rows is not None:
            left = self.total_rows - self._sequence.rows_before(cursor)
            count = min(count, left)
        if count <= 0:
            return None
        taken = self._sequence.take(cursor, count)
        return taken if taken.row_ids else None
