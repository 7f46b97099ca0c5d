"""Documents -> rows of a fixed length, with little padding.

A document is cut into chunks of `seq_length` positions, the last one shorter; chunks
are put into rows by best-fit decreasing (Ding et al. 2024, "Fewer Truncations Improve
Language Modeling"): the longest first, each into the row with the least room that
still holds it.
"""

from __future__ import annotations

import functools
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

from lumina.data.store import TokenStore

WINDOW = 2**22
"""Chunks packed together; bounds the memory that packing takes on top of its result."""

Ints = NDArray[np.int64]


@dataclass(frozen=True)
class Packing:
    """Which tokens stand in which row.

    A chunk with start a and length n has the inputs ``tokens[a : a + n]`` and the
    labels ``tokens[a + 1 : a + n + 1]``.

    Attributes:
        starts: [C] int64, where each chunk begins in the store; by row.
        lengths: [C] int32, its positions.
        rows: [R + 1] int64, the first chunk of every row.
        seq_length: positions of a row.
    """

    starts: Ints
    lengths: NDArray[np.int32]
    rows: Ints
    seq_length: int

    def __len__(self) -> int:
        """The number of rows."""
        return len(self.rows) - 1

    @property
    def utilisation(self) -> float:
        """Share of positions that hold a token."""
        room = len(self) * self.seq_length
        return float(self.lengths.sum(dtype=np.int64)) / room if room else 0.0


@functools.lru_cache(maxsize=32)  # the plan counts the rows that the stream then uses
def pack(store: TokenStore, seq_length: int, window: int = WINDOW) -> Packing:
    """Pack every document of a store into rows of `seq_length` positions."""
    chunk_starts, chunk_lengths = cut(store.starts, seq_length)
    starts, lengths, counts = [], [], []
    for begin in range(0, len(chunk_starts), window):
        part = chunk_lengths[begin : begin + window]
        row = best_fit(part, seq_length)
        order = np.argsort(row, kind="stable")
        starts.append(chunk_starts[begin : begin + window][order])
        lengths.append(part[order].astype(np.int32))
        counts.append(np.bincount(row))
    rows = np.concatenate([[0], *counts]).cumsum().astype(np.int64)
    return Packing(
        np.concatenate(starts) if starts else np.zeros(0, np.int64),
        np.concatenate(lengths) if lengths else np.zeros(0, np.int32),
        rows,
        seq_length,
    )


@functools.lru_cache(maxsize=32)
def pack_in_order(store: TokenStore, seq_length: int) -> Packing:
    """Pack the documents of a store one after the other; none comes before another.

    A chunk that does not fit into what is left of a row begins the next one.
    """
    starts, lengths = cut(store.starts, seq_length)
    return Packing(
        starts, lengths.astype(np.int32), next_fit(lengths, seq_length), seq_length
    )


def next_fit(lengths: NDArray[np.integer[Any]], capacity: int) -> Ints:
    """[R + 1] the first item of every row, where items stay in their order.

    Args:
        lengths: [C], each from 1 to `capacity`.
        capacity: room of an empty row.
    """
    ends = np.cumsum(lengths, dtype=np.int64)
    rows, first, before = [0], 0, 0
    while first < len(ends):
        first = int(np.searchsorted(ends, before + capacity, side="right"))
        before = int(ends[first - 1])
        rows.append(first)
    return np.array(rows, dtype=np.int64)


def cut(document_starts: Ints, seq_length: int) -> tuple[Ints, Ints]:
    """Cut documents into chunks of at most `seq_length` positions.

    A document of n tokens has n - 1 positions: its last token is only a label.

    Args:
        document_starts: [N + 1], as in `TokenStore.starts`.
        seq_length: the longest chunk.

    Returns:
        (starts [C], lengths [C]), in the order of the documents.
    """
    positions = np.maximum(np.diff(document_starts) - 1, 0)
    chunks = -(-positions // seq_length)
    first = np.cumsum(chunks) - chunks
    offset = (np.arange(chunks.sum()) - np.repeat(first, chunks)) * seq_length
    starts = np.repeat(document_starts[:-1], chunks) + offset
    lengths = np.minimum(np.repeat(positions, chunks) - offset, seq_length)
    return starts.astype(np.int64), lengths.astype(np.int64)


def best_fit(lengths: NDArray[np.integer[Any]], capacity: int) -> Ints:
    """The row of every item, by best-fit decreasing.

    Items of one length, and rows with the same room, are handled together, so the
    work grows with the number of distinct lengths and not with that of items.

    Args:
        lengths: [C], each from 1 to `capacity`.
        capacity: room of an empty row.

    Returns:
        [C] row numbers, from 0, without gaps.
    """
    order = np.argsort(-lengths, kind="stable")
    distinct, counts = np.unique(lengths, return_counts=True)
    filled = _Rooms(capacity)
    placed = [
        filled.place(int(length), int(count))
        for length, count in zip(distinct[::-1], counts[::-1], strict=True)
    ]
    rows = np.empty(len(lengths), dtype=np.int64)
    if placed:
        rows[order] = np.concatenate(placed)
    return rows


class _Rooms:
    """Open rows, grouped by the room they have left."""

    def __init__(self, capacity: int) -> None:
        self.capacity = capacity
        self.rows = 0
        self.groups: dict[int, list[Ints]] = {}
        self.present = 0  # bit r is set when some row has room r

    def place(self, length: int, count: int) -> Ints:
        """Rows of `count` items of one length, best fit first."""
        placed: list[Ints] = []
        while count:
            fitting = self.present >> length
            if fitting:
                room = length + (fitting & -fitting).bit_length() - 1
                rows = np.concatenate(self.groups.pop(room))
                self.present &= ~(1 << room)
            else:
                room = self.capacity
                needed = -(-count // (room // length))
                rows = np.arange(self.rows, self.rows + needed)
                self.rows += needed
            # The row just used stays the tightest one until it holds no further item.
            each = room // length
            full = min(len(rows), count // each)
            rest = count - full * each if full < len(rows) else 0
            taken = np.repeat(rows[:full], each)
            self._keep(room - each * length, rows[:full])
            if rest:
                taken = np.concatenate([taken, np.repeat(rows[full], rest)])
                self._keep(room - rest * length, rows[full : full + 1])
                full += 1
            self._keep(room, rows[full:])
            placed.append(taken)
            count -= len(taken)
        return np.concatenate(placed)

    def _keep(self, room: int, rows: Ints) -> None:
        if room and len(rows):
            self.groups.setdefault(room, []).append(rows)
            self.present |= 1 << room
