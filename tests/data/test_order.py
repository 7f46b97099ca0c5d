"""The order of rows: every row once, the same from anywhere, the same as ever."""

from __future__ import annotations

import hashlib
import json
from collections import Counter

import pytest

from lumina.data.order import RowOrder, Sequenced, Shuffle, Turns


def shuffled(rows: int, name: str = "data", seed: int = 3) -> Shuffle:
    return Shuffle(rows, seed=seed, fingerprint=name)


def taken(
    sequence: Sequenced, batch: int, epochs: float | None = 1.0
) -> list[tuple[int, int]]:
    """Every row of a run, step by step."""
    order = RowOrder(sequence, global_batch_size=batch, epochs=epochs)
    cursor, ids = order.start, []
    while (step := order.take(cursor)) is not None:
        ids += step.row_ids
        cursor = json.loads(json.dumps(step.cursor))
    return ids


def digest(ids: list[tuple[int, int]]) -> str:
    return hashlib.sha256(json.dumps(ids).encode()).hexdigest()[:16]


@pytest.mark.covers(
    "TRN-31: deterministic seeds", "DAT-32: consistent shuffling by seed"
)
def test_the_order_is_what_runs_were_begun_with() -> None:
    """A checkpoint's position means the same rows in every version."""
    ids = taken(shuffled(56), 4, epochs=2.5)
    assert len(ids) == 140
    assert digest(ids) == "2a394218bc864e00"


@pytest.mark.parametrize("batch", [1, 3, 7, 25])
def test_steps_of_any_size_take_the_same_rows(batch: int) -> None:
    sets = [shuffled(5, "a"), shuffled(9, "b"), shuffled(2, "c")]
    for sequence in (shuffled(10), Turns(sets)):
        assert taken(sequence, batch, 2.0) == taken(sequence, 2, 2.0)


def test_turns_are_even_and_each_set_has_epochs_of_its_own() -> None:
    sizes = {"a": 5, "b": 9, "c": 2}
    sets = [shuffled(size, name) for name, size in sizes.items()]
    ids = taken(Turns(sets), 4, epochs=1.0)
    assert len(ids) == 3 * 9
    firsts = {"a": 0, "b": 5, "c": 14}
    for place, (name, size) in enumerate(sizes.items()):
        mine = [(e, row - firsts[name]) for e, row in ids[place::3]]
        assert mine == sets[place].row_ids(0, 9)
        # Every row of a set once in each of its epochs.
        whole = 9 // size
        counts = Counter((e, row) for e, row in mine if e < whole)
        assert counts == Counter((e, r) for e in range(whole) for r in range(size))
