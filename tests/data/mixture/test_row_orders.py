"""Curricula and sampling: which rows come when, and how often."""

from __future__ import annotations

import math
from collections import Counter
from pathlib import Path

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from lumina.data.mixture.measures import MEASURES
from lumina.data.mixture.measures.table import of_rows
from lumina.data.mixture.row_orders import Curriculum, Sampled
from lumina.data.order import Shuffle
from lumina.data.packing import pack
from lumina.data.store import StoreWriter, TokenStore

NUMBERS = st.lists(st.floats(0.01, 100.0), min_size=1, max_size=60)


def epochs(order: Curriculum | Sampled, count: int) -> list[list[int]]:
    size = order.rows_per_epoch
    ids = order.row_ids(0, count * size)
    return [[row for e, row in ids if e == epoch] for epoch in range(count)]


@pytest.mark.covers("DAT-42")
@given(NUMBERS, st.floats(0, 1), st.integers(0, 9))
def test_a_curriculum_takes_every_row_once_and_begins_with_the_easy_ones(
    difficulty: list[float], spread: float, seed: int
) -> None:
    found = np.array(difficulty)
    made = Curriculum(found, epochs=2, spread=spread, seed=seed, fingerprint="x")
    size = len(difficulty)
    for epoch, rows in enumerate(epochs(made, 3)):
        assert sorted(rows) == list(range(size))
        if spread == 0 and epoch < 2:
            assert found[rows].tolist() == sorted(difficulty)
        # No row comes further from its place than the spread says.
        places = np.argsort(np.argsort(found, kind="stable"), kind="stable")
        moved = np.abs(places[rows] - np.arange(size)).max()
        assert epoch >= 2 or moved <= spread * size + 1
    # What comes after is shuffled as it is without a curriculum.
    plain = Shuffle(size, seed=seed, fingerprint="x")
    assert epochs(made, 3)[2] == plain.in_epoch(2).tolist()


@pytest.mark.covers("DAT-17")
@given(NUMBERS, st.integers(0, 9))
def test_rows_come_as_often_as_their_weights_say(
    weights: list[float], seed: int
) -> None:
    made = Sampled(np.array(weights), seed=seed, fingerprint="x")
    size = len(weights)
    for rows in epochs(made, 2):
        counts = Counter(rows)
        assert sum(counts.values()) == size
        for row, weight in enumerate(weights):
            wanted = weight * size / sum(weights)
            assert math.floor(wanted - 1e-6) <= counts[row] <= math.ceil(wanted + 1e-6)


def test_the_quality_of_a_row_is_that_of_its_documents(tmp_path: Path) -> None:
    """Documents that are cut keep their score in every piece."""
    writer = StoreWriter(tmp_path, 50, masked=False, scored=True)
    for size, score in ((5, 2.0), (40, 0.5), (16, 8.0)):
        ids, taught = np.arange(size), np.ones(size, dtype=bool)
        writer.add(
            ids, taught, text_bytes=1, loss_bytes=1, last=True, quality=score
        )  # fmt: skip
    writer.close()
    store = TokenStore.open(tmp_path)
    packing = pack(store, 16)
    found = MEASURES["quality"](store, packing)
    wanted = {0: 2.0, 1: 0.5, 2: 8.0}
    document = np.searchsorted(store.starts, packing.starts, side="right") - 1
    assert found.tolist() == [wanted[one] for one in document.tolist()]
    assert np.bincount(document).tolist() == [1, 3, 1]


def test_over_epochs_every_weight_is_met_on_average() -> None:
    weights = np.array([0.2, 0.5, 1.0, 2.3])
    made = Sampled(weights, seed=1, fingerprint="x")
    counts = Counter(row for rows in epochs(made, 400) for row in rows)
    found = [counts[row] / 400 for row in range(4)]
    assert found == pytest.approx(weights.tolist(), abs=0.08)
    assert epochs(made, 3)[0] != epochs(made, 3)[1]


@pytest.fixture
def store(tmp_path: Path) -> TokenStore:
    """Documents of 4, 9 and 8 tokens, the last ones rare, and one that repeats."""
    writer = StoreWriter(tmp_path, 50, masked=False)
    common = [1, 2, 3, 1, 2]
    for ids in (common, [*common, *common], [1, 20, 21, 22, 23, 24, 25, 26, 27],
                [4] * 9):  # fmt: skip
        array = np.array(ids)
        taught = np.ones(len(ids), dtype=bool)
        writer.add(array, taught, text_bytes=1, loss_bytes=1, last=True)
    writer.close()
    return TokenStore.open(tmp_path)


@pytest.mark.covers("DAT-18: treatment of rare tokens", "DAT-42")
def test_measures_find_what_they_are_named_for(store: TokenStore) -> None:
    packing = pack(store, 16)

    def of_document(name: str) -> dict[int, float]:
        values = MEASURES[name](store, packing)
        starts = store.starts.tolist()
        pairs = zip(packing.starts.tolist(), values.tolist(), strict=True)
        return {starts.index(begin): value for begin, value in pairs}

    length, rarity, variety = (of_document(n) for n in ("length", "rarity", "variety"))
    assert length == {0: 4, 1: 9, 2: 8, 3: 8}
    assert max(rarity, key=rarity.__getitem__) == 2
    assert max(variety, key=variety.__getitem__) == 2
    assert min(variety, key=variety.__getitem__) == 3
    assert variety[3] == pytest.approx(1 / math.sqrt(16))
    # Of a row: the mean over its tokens.
    rows = of_rows(MEASURES["length"](store, packing), packing)
    whole = (packing.lengths.astype(float) ** 2).sum()
    tokens = np.add.reduceat(packing.lengths, packing.rows[:-1])
    assert (rows * tokens).sum() == pytest.approx(whole)
