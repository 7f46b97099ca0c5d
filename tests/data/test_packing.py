"""Packing: nothing lost, little padding, equal to the obvious algorithm."""

from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from lumina.data.packing import best_fit, cut


def naive_rooms(lengths: list[int], capacity: int) -> list[int]:
    """Room left in each row by best-fit decreasing, one item at a time."""
    rooms: list[int] = []
    for length in sorted(lengths, reverse=True):
        fitting = [(room, i) for i, room in enumerate(rooms) if room >= length]
        if fitting:
            rooms[min(fitting)[1]] -= length
        else:
            rooms.append(capacity - length)
    return sorted(rooms)


@settings(max_examples=300)
@given(st.data())
@pytest.mark.covers("DOC-02: property tests (hypothesis)")
def test_rows_equal_those_of_the_naive_algorithm(data: st.DataObject) -> None:
    capacity = data.draw(st.integers(1, 40))
    lengths = data.draw(st.lists(st.integers(1, capacity), max_size=80))
    rows = best_fit(np.array(lengths, dtype=np.int64), capacity)
    filled = np.bincount(rows, weights=lengths).astype(int) if lengths else []
    assert sorted(capacity - f for f in filled) == naive_rooms(lengths, capacity)


@pytest.mark.covers("DAT-08: document-aware chunking")
@settings(max_examples=100)
@given(st.lists(st.integers(0, 30), max_size=20), st.integers(1, 9))
def test_every_position_is_in_exactly_one_chunk(sizes: list[int], width: int) -> None:
    document_starts = np.cumsum([0, *sizes]).astype(np.int64)
    starts, lengths = cut(document_starts, width)
    assert all(1 <= n <= width for n in lengths)
    covered = [p for s, n in zip(starts, lengths, strict=True) for p in range(s, s + n)]
    # All tokens but the last of each document are inputs.
    ends = {
        end - 1 for end, size in zip(document_starts[1:], sizes, strict=True) if size
    }
    assert covered == [p for p in range(document_starts[-1]) if p not in ends]
    # No chunk reaches into another document, and what fits into a row is not cut.
    first, last = (
        np.searchsorted(document_starts, place, side="right")
        for place in (starts, starts + lengths - 1)
    )
    assert (first == last).all()
    chunks = np.bincount(first - 1, minlength=len(sizes))
    for size, count in zip(sizes, chunks.tolist(), strict=False):
        assert count == -(-max(size - 1, 0) // width)


@pytest.mark.covers("DAT-40: several sequences per row")
def test_a_million_chunks_are_packed_tightly() -> None:
    generator = np.random.default_rng(0)
    lengths = np.clip(generator.exponential(600, 10**6).astype(np.int64), 1, 4096)
    rows = best_fit(lengths, 4096)
    filled = np.bincount(rows, weights=lengths)
    assert filled.max() <= 4096
    assert filled.mean() / 4096 > 0.999
