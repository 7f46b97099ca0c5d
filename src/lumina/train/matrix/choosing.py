"""Which cells are tried: each feature alone, pairs, triples, and named ones."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from functools import cache
from itertools import combinations

from lumina.errors import LuminaError
from lumina.features.measured import BAD, VERIFIED, Row
from lumina.similar_names import did_you_mean
from lumina.train.matrix.cell import Cell, clash, tried_features
from lumina.train.matrix.covering import Together, covering
from lumina.train.matrix.named import named_cells
from lumina.train.matrix.run import refusal

WIDTH = 12
"""Features of a row, where it is not said how many."""


def chosen_cells(
    *,
    singles: bool = False,
    pairs: bool = False,
    triples: bool = False,
    named: bool = False,
    only: Sequence[str] = (),
    width: int = WIDTH,
    here: Callable[[str], bool] = lambda name: True,
    planned: Callable[[Together], bool] = lambda features: True,
    rows: Sequence[Row] = (),
) -> list[Cell]:
    """The cells that are asked for, each once, single features first.

    Args:
        singles: each feature alone.
        pairs: rows of features that hold every pair, and pairs that are refused.
        triples: the same for every three.
        named: the cells of `named.toml`.
        only: names of features and of named cells; the others are left out. Named
            alone, features are tried one by one.
        width: most features of a row.
        here: whether a feature can be tried on this machine; the others are left out
            of rows, where they would leave every other one of the row untried.
        planned: whether the plan of this machine accepts features together; asked of
            whole rows, so that few of them are refused as they run.
        rows: that there are of this machine; no other row is laid for the pairs and
            triples that one of them holds.

    Raises:
        LuminaError: E005 for a name that nothing has, and for a width below 2, or 3 for
            triples.
    """
    features, wanted = _named(only)
    least = 3 if triples else 2
    if width < least:
        message = f"width {width}: rows of so few features hold no {least} of them"
        raise LuminaError("E005", message, f"use --width {least} or more")
    found: list[Cell] = []
    if named or wanted:
        found += [one for one in named_cells() if not wanted or one.name in wanted]
    if singles or (only and features and not (pairs or triples)):
        found += [Cell((name,)) for name in features]
    for strength, asked in ((2, pairs), (3, triples)):
        if asked:
            there = [name for name in features if here(name)]
            found += _together(there, strength, width, planned, rows)
    return list({(c.name, c.features): c for c in found}.values())


def _together(
    names: Sequence[str],
    strength: int,
    width: int,
    planned: Callable[[Together], bool],
    rows: Sequence[Row],
) -> list[Cell]:
    """Rows that hold every pair or triple: those that are there, and others.

    What differs or fails alone would do so in every row, and is in none.
    """
    alone = {tuple(row["features"]): row["status"] for row in rows}
    names = [name for name in names if alone.get((name,)) not in BAD]
    there = [
        row["features"]
        for row in rows
        if not row["named"] and len(row["features"]) >= strength
        and set(names).issuperset(row["features"])
    ]  # fmt: skip
    done = {one for row in there for one in combinations(row, strength)}
    apart = {
        frozenset(row["features"])
        for row in rows
        if len(row["features"]) == 2 and row["status"] != VERIFIED
    }

    def allowed(features: Together) -> bool:
        pairs = map(frozenset, combinations(features, 2))
        return apart.isdisjoint(pairs) and goes(features)

    laid, refused = covering(
        names, allowed, strength=strength, width=width, done=done, accepted=planned
    )
    if strength == 2:  # what is refused is a result, too
        laid += [one for one in refused if one not in done and clash(one) is None]
    return [Cell(tuple(row)) for row in [*there, *laid]]


@cache
def goes(features: Together) -> bool:
    """Whether features can be asked for together: one option has one value."""
    return clash(features) is None and refusal(Cell(features)) is None


def _named(only: Sequence[str]) -> tuple[list[str], set[str]]:
    """Features and named cells among the words of `--only`; all features for none."""
    features = tried_features()
    if not only:
        return features, set()
    cells = {one.name.lower(): one.name for one in named_cells()}
    chosen, wanted = [], set()
    for word in only:
        name = word.replace("-", "_")
        if name in features:
            chosen.append(name)
        elif word.lower() in cells:
            wanted.add(cells[word.lower()])
        else:
            meant = did_you_mean(name, [*features, *cells])
            raise LuminaError(
                "E005",
                f"{word!r} is neither a feature that is tried nor a named cell",
                f"{meant}`lumina matrix --singles --named --list` lists them",
            )
    return [name for name in features if name in chosen], wanted
