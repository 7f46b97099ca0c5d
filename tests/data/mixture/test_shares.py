"""A mixture keeps its shares within one row, and neither loses nor doubles a row."""

from __future__ import annotations

import json
from collections import Counter

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from lumina.data.mixture.sequence import Mixture, shares_by_size
from lumina.data.mixture.shares import ShareSchedule, Weights, in_units, next_source
from lumina.data.order import Cursor, RowOrder, Shuffle

NUMBERS = st.floats(0.0, 1.0).map(lambda x: 0.0 if x < 1e-4 else x)


@st.composite
def weights(draw: st.DrawFn, sources: int) -> Weights:
    found = draw(st.lists(NUMBERS, min_size=sources, max_size=sources))
    found[draw(st.integers(0, sources - 1))] = draw(st.floats(0.01, 1.0))
    return tuple(x / sum(found) for x in found)


SHARES = st.integers(1, 6).flatmap(lambda n: weights(n))


def mixture(
    sizes: list[int], points: list[tuple[int, Weights]], step_rows: int, seed: int
) -> Mixture:
    parts = {
        f"s{n}": Shuffle(size, seed=seed, fingerprint=f"content {n}")
        for n, size in enumerate(sizes)
    }
    return Mixture(parts, ShareSchedule(points, step_rows))


def source_of(row: int, sizes: list[int]) -> int:
    return next(n for n in range(len(sizes)) if row < sum(sizes[: n + 1]))


@pytest.mark.covers("DAT-11: base_finetuning_ratio")
@settings(max_examples=60, deadline=None)
@given(SHARES, st.integers(1, 400))
def test_shares_hold_within_one_row_at_every_prefix(asked: Weights, rows: int) -> None:
    units, counts = in_units(asked), [0] * len(asked)
    for n in range(1, rows + 1):
        counts[next_source(units, counts)] += 1
        assert sum(counts) == n
        for count, weight in zip(counts, asked, strict=True):
            assert abs(count - n * weight) < 1 + 1e-6
            assert count == 0 or weight > 0


@settings(max_examples=40, deadline=None)
@given(st.data())
def test_nothing_is_lost_or_doubled_from_any_point(data: st.DataObject) -> None:
    """Whatever the steps, and wherever a run was resumed: the rows of one long call."""
    sizes = data.draw(st.lists(st.integers(1, 30), min_size=1, max_size=4))
    shares = weights(len(sizes))
    points = [(0, data.draw(shares)), (data.draw(st.integers(1, 9)), data.draw(shares))]
    seed, batch = data.draw(st.integers(0, 99)), data.draw(st.integers(1, 8))
    one = mixture(sizes, points, step_rows=3, seed=seed)
    changed_at, changed = data.draw(st.integers(0, 12)), data.draw(shares)

    def run(step: int) -> list[tuple[int, int]]:
        cursor: Cursor = one.start
        ids: list[tuple[int, int]] = []
        for end in (changed_at, 60):
            while (left := end - one.rows_before(cursor)) > 0:
                taken = one.take(cursor, min(step, left))
                cursor = json.loads(json.dumps(taken.cursor))
                ids += taken.row_ids
            cursor = one.with_weights(cursor, changed)
        return ids

    ids = run(batch)
    assert ids == run(60)
    seen = Counter((source_of(row, sizes), epoch, row) for epoch, row in ids)
    assert set(seen.values()) <= {1}
    for source, size in enumerate(sizes):
        # Its own epochs follow each other: each is whole before the next begins.
        epochs = [epoch for epoch, row in ids if source_of(row, sizes) == source]
        counts = Counter(epochs)
        assert epochs == sorted(epochs)
        assert all(counts[epoch] == size for epoch in counts if epoch < max(counts))


def test_a_schedule_changes_the_shares_at_its_steps_whatever_the_calls() -> None:
    points = [(0, (0.8, 0.2)), (5, (0.25, 0.75))]
    one = mixture([50, 50], points, step_rows=4, seed=1)
    ids = one.take(one.start, 60).row_ids
    first = [source_of(row, [50, 50]) for _, row in ids]
    assert first[:20].count(0) == 16 and first[20:].count(0) == 10
    facts = one.take(one.start, 21).facts
    assert facts["source.s0.weight"] == 0.25
    assert facts["epoch.s0"] == pytest.approx(16.5 / 50, abs=0.51 / 50)


def test_without_weights_an_epoch_takes_every_row_of_every_source_once() -> None:
    sizes = [7, 40, 13]
    one = mixture(sizes, [(0, shares_by_size(sizes))], step_rows=4, seed=5)
    order = RowOrder(one, global_batch_size=4, epochs=1.0)
    cursor, ids = order.start, []
    while (taken := order.take(cursor)) is not None:
        ids += taken.row_ids
        cursor = taken.cursor
    assert sorted(ids) == [(0, row) for row in range(60)]
    assert taken is None and one.rows_before(cursor) == 60


def test_temperature_makes_shares_more_equal() -> None:
    sizes = [900, 100]
    assert shares_by_size(sizes, 1.0) == pytest.approx((0.9, 0.1))
    assert shares_by_size(sizes, 2.0) == pytest.approx((0.75, 0.25))
    assert shares_by_size(sizes, 1e9) == pytest.approx((0.5, 0.5))
