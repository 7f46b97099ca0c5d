"""Rows in which every pair, or triple, of features stands together."""

from __future__ import annotations

import random
from itertools import combinations

import pytest

from lumina.train.matrix.cell import clash, tried_features
from lumina.train.matrix.choosing import chosen_cells, goes
from lumina.train.matrix.covering import covering


@pytest.mark.parametrize("strength", [2, 3])
@pytest.mark.parametrize("seed", range(8))
def test_every_tuple_that_is_allowed_is_in_a_row(strength: int, seed: int) -> None:
    """Against every pair of random exclusions; no row holds one that is excluded."""
    draw = random.Random(seed)
    names = [f"f{n}" for n in range(draw.randint(strength, 12))]
    excluded = {p for p in combinations(names, 2) if draw.random() < 0.3}

    def allowed(row: tuple[str, ...]) -> bool:
        return not excluded & set(combinations(row, 2))

    rows, refused = covering(
        names, allowed, strength=strength, width=draw.randint(strength, 6)
    )
    wanted = {one for one in combinations(names, strength) if allowed(one)}
    covered = {one for row in rows for one in combinations(row, strength)}
    assert covered == wanted
    assert set(refused) == set(combinations(names, strength)) - wanted
    assert len(set(rows)) == len(rows)


def test_rows_are_far_fewer_than_pairs() -> None:
    names = [f"f{n}" for n in range(30)]
    rows, _ = covering(names, lambda row: True, strength=2, width=6)
    assert all(len(row) <= 6 for row in rows)
    # 435 pairs, and 15 fit into a row.
    assert 29 <= len(rows) <= 60
    with pytest.raises(ValueError, match="hold no 3"):
        covering(names, lambda row: True, strength=3, width=2)


def test_pairs_of_the_table_are_covered_or_refused() -> None:
    """Of all features: what one option excludes is no cell, what is refused is one."""
    names = tried_features()[:16]
    cells = chosen_cells(pairs=True, only=names, width=4)
    covered = {
        pair for cell in cells if goes(cell.features)
        for pair in combinations(cell.features, 2)
    }  # fmt: skip
    refused = {cell.features for cell in cells if not goes(cell.features)}
    for pair in combinations(names, 2):
        assert (pair in covered) + (pair in refused) + (clash(pair) is not None) == 1
    assert ("ema", "swa") in refused
    fewer = chosen_cells(pairs=True, only=names, width=4, here=lambda n: n != "ema")
    assert fewer and not any("ema" in cell.features for cell in fewer)
    assert ("adapters", "qk_norm") in covered
