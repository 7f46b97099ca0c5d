"""Seats of one batch in a cache of fixed shape, for models without a paged cache.

Each seat has slots of its own for a whole row, whether someone sits there or not. What
layers keep of chosen tokens only (Mixture of Depths, of Recursions) lies there, too.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager

from lumina.infer.kv.static_cache import StaticCache


class StaticSeats(StaticCache):
    """A `StaticCache` of rows that are apart, and the care of its rows.

    The methods are those of `PagedSeats`.

    Args:
        rows: seats.
        options: of `StaticCache`.
    """

    def __init__(self, rows: int, *arguments: object, **options: object) -> None:
        super().__init__(rows, *arguments, apart=True, **options)  # type: ignore[arg-type]
        self.most = rows
        self.in_pieces = False  # a step would write into a row that is being read
        self._lengths: list[int | None] = [None] * rows

    def take(self, seat: int, ids: Sequence[int], spare: int = 0) -> int | None:
        """Seat a row; see `PagedSeats`. Nothing of it is in the cache already."""
        self.restart_row(seat)
        self._lengths[seat] = 0
        return 0

    @contextmanager
    def reading(self, seat: int, begun: bool = True) -> Iterator[StaticCache]:
        """The cache through which the row of a seat is read, all at once."""
        self.span = 0
        with self.only(seat):
            yield self
        self._lengths[seat] = self._own[seat]

    def at_once(self, columns: int) -> int:
        """Tokens of a prompt in a pass, at most `columns`."""
        return self._at_once(columns)

    def make_room(self, seat: int, ids: Callable[[], Sequence[int]]) -> bool:
        """Nothing to do: a seat has room for a whole row."""
        return True

    def count(self, seats: Sequence[int]) -> None:
        """Count the token that a step adds to each of these seats."""
        for seat in seats:
            self._lengths[seat] = self.length_of(seat) + 1
        # A step adds a column to every seat, also where nobody counts it.
        own = [length or 0 for length in self._lengths]
        self.counted = max(own), max(own), own

    def leave(self, seat: int, ids: Sequence[int], whole: bool = True) -> None:
        """Free a seat."""
        self._lengths[seat] = None
        self.restart_row(seat)

    def length_of(self, seat: int) -> int:
        """Tokens of a seat that are in the cache, or on their way into it."""
        length = self._lengths[seat]
        assert length is not None, "no answer has this seat"
        return length
