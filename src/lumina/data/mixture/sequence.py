"""A mixture: a sequence of rows that is made of the sequences of several sources."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np

from lumina.config.source_entries import normalised
from lumina.data.mixture.shares import ShareSchedule, Weights, in_units, next_source
from lumina.data.order import Cursor, RowId, Sequenced, Taken


class MixedRows:
    """The turns that sources take, in shares that hold within one row at any time.

    The shares hold from the point where they last changed. The cursor holds all that
    the order depends on: the cursor of every source, the shares that hold and the rows
    that each source has given since then, and the shares that a control has set.

    Args:
        parts: the rows of each source, by name.
        schedule: the shares. Shares that a control sets hold in place of them.
    """

    def __init__(self, parts: Mapping[str, Sequenced], schedule: ShareSchedule) -> None:
        self.names = tuple(parts)
        self._parts = tuple(parts.values())
        self.schedule = schedule

    @property
    def start(self) -> Cursor:
        """Before the first row; the shares are those of the schedule."""
        return {
            "rows": 0,
            "step_rows": self.schedule.step_rows,
            "parts": [dict(part.start) for part in self._parts],
            "weights": list(self.schedule.at(0)),
            "since": [0] * len(self._parts),
            "set": None,
        }

    def rows_before(self, cursor: Cursor) -> int:
        """Rows of all sources."""
        return int(cursor["rows"])

    def weights(self, cursor: Cursor) -> Weights:
        """The shares of the next row."""
        if cursor["set"] is not None:
            return tuple(cursor["set"])
        return self.schedule.at(cursor["rows"], cursor["step_rows"])

    def with_weights(self, cursor: Cursor, weights: Sequence[float] | None) -> Cursor:
        """The cursor from which rows come in other shares; None: by the schedule."""
        return {**cursor, "set": None if weights is None else list(weights)}

    def reweighted(self, cursor: Cursor, weights: Mapping[str, float] | None) -> Cursor:
        """The same for weights by the names of the sources, whatever their sum."""
        if weights is None:
            return self.with_weights(cursor, None)
        given = [weights[name] for name in self.names]
        return self.with_weights(cursor, normalised(given, "source_weights"))

    def turns(self, cursor: Cursor, count: int) -> tuple[list[int], Weights, list[int]]:
        """The source of each of the next `count` rows, and what holds behind them.

        Returns:
            Numbers of sources; the shares that hold, and the rows that each source has
            given since they do.
        """
        begin, sources = int(cursor["rows"]), []
        weights, since = tuple(cursor["weights"]), list(cursor["since"])
        units = in_units(weights)
        for row in range(begin, begin + count):
            now = self.weights({**cursor, "rows": row})
            if now != weights:
                weights, since, units = now, [0] * len(since), in_units(now)
            source = next_source(units, since)
            since[source] += 1
            sources.append(source)
        return sources, weights, since

    def taken_of(self, cursor: Cursor, sources: Sequence[int]) -> list[Taken]:
        """What each source gives for these turns."""
        return [
            part.take(place, sources.count(number))
            for number, (part, place) in enumerate(
                zip(self._parts, cursor["parts"], strict=True)
            )
        ]

    def after(
        self,
        cursor: Cursor,
        count: int,
        parts: list[dict[str, Any]],
        weights: Weights,
        since: list[int],
    ) -> dict[str, Any]:
        """The cursor behind `count` rows; further arguments as `start` names them."""
        return {
            "rows": int(cursor["rows"]) + count,
            "step_rows": cursor["step_rows"],
            "parts": parts,
            "weights": list(weights),
            "since": since,
            "set": cursor["set"],
        }

    def shares_now(self, weights: Weights) -> dict[str, float]:
        """The share of each source, as facts."""
        pairs = zip(self.names, weights, strict=True)
        return {f"source.{name}.weight": weight for name, weight in pairs}


class Mixture(MixedRows):
    """Rows of several sources, each of which has a known number of them.

    Rows are numbered through: those of the second source begin where those of the first
    end. One pass over the mixture is as many rows as its sources have together, without
    those that never have a share; each source has epochs of its own, which
    `Taken.facts` gives.

    Args:
        parts: the rows of each source, by name.
        schedule: the shares.
    """

    def __init__(self, parts: Mapping[str, Sequenced], schedule: ShareSchedule) -> None:
        super().__init__(parts, schedule)
        sizes = [_known(name, part) for name, part in parts.items()]
        self.sizes = sizes
        self._used = [any(w[n] for _, w in schedule.points) for n in range(len(sizes))]
        self._first = np.concatenate([[0], np.cumsum(sizes)]).tolist()

    def in_steps_of(self, rows: int) -> Mixture:
        """The same mixture, whose schedule counts steps of this many rows."""
        parts = dict(zip(self.names, self._parts, strict=True))
        return Mixture(parts, ShareSchedule(self.schedule.points, rows))

    @property
    def rows_per_epoch(self) -> int:
        """The rows of all sources that ever have a share."""
        pairs = zip(self.sizes, self._used, strict=True)
        return sum(size for size, used in pairs if used)

    def take(self, cursor: Cursor, count: int) -> Taken:
        """The next `count` rows of the mixture."""
        begin = int(cursor["rows"])
        sources, weights, since = self.turns(cursor, count)
        taken = self.taken_of(cursor, sources)
        waiting = [iter(one.row_ids) for one in taken]
        ids: list[RowId] = []
        for source in sources:
            epoch, row = next(waiting[source])
            ids.append((epoch, row + self._first[source]))
        parts = [dict(one.cursor) for one in taken]
        return Taken(
            begin=begin,
            row_ids=ids,
            cursor=self.after(cursor, count, parts, weights, since),
            epoch=(begin + count) / self.rows_per_epoch,
            facts=self._facts(parts, weights),
        )

    def _facts(
        self, parts: Sequence[Mapping[str, Any]], weights: Weights
    ) -> dict[str, float]:
        """The epoch of each source, and the share that it has now."""
        facts: dict[str, float] = {}
        for name, part, place, size in zip(
            self.names, self._parts, parts, self.sizes, strict=True
        ):
            facts[f"epoch.{name}"] = part.rows_before(place) / max(size, 1)
        return facts | self.shares_now(weights)


def _known(name: str, part: Sequenced) -> int:
    rows = part.rows_per_epoch
    if rows is None:
        raise ValueError(f"the source {name} has no known number of rows")
    return rows


def shares_by_size(sizes: Sequence[int], temperature: float = 1.0) -> Weights:
    """Shares in proportion to size^(1/temperature) (Conneau et al., arXiv:1911.02116).

    Args:
        sizes: rows of each source.
        temperature: 1 is in proportion to the sizes; a larger one makes the shares more
            equal.
    """
    powers = [size ** (1.0 / temperature) for size in sizes]
    total = sum(powers)
    return tuple(power / total for power in powers)
