"""Linear order: no document comes before an earlier one, and nothing is lost."""

from __future__ import annotations

import itertools

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from lumina.data.packing import next_fit


@pytest.mark.covers("DAT-28: linear mode")
@settings(max_examples=60, deadline=None)
@given(st.lists(st.integers(1, 9), max_size=40))
def test_rows_are_filled_in_order_and_none_overflows(lengths: list[int]) -> None:
    rows = next_fit(np.array(lengths, dtype=np.int64), 9).tolist()
    assert rows[0] == 0 and rows[-1] == len(lengths)
    filled = [sum(lengths[a:b]) for a, b in itertools.pairwise(rows)]
    assert all(0 < size <= 9 for size in filled)
    # A row ends only where the next chunk does not fit.
    firsts = [lengths[first] for first in rows[1:-1]]
    assert all(size + first > 9 for size, first in zip(filled, firsts, strict=False))
