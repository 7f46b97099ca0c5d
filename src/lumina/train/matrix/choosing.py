"""Which cells are tried: each feature alone, pairs, triples, and named ones."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from functools import cache

from lumina.errors import LuminaError
from lumina.similar_names import did_you_mean
from lumina.train.matrix.cell import Cell, clash, tried_features
from lumina.train.matrix.covering import Together, covering
from lumina.train.matrix.named import named_cells
from lumina.train.matrix.run import refusal


def chosen_cells(
    *,
    singles: bool = False,
    pairs: bool = False,
    triples: bool = False,
    named: bool = False,
    only: Sequence[str] = (),
    width: int = 5,
    here: Callable[[str], bool] = lambda name: True,
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
            rows, refused = covering(there, goes, strength=strength, width=width)
            found += [Cell(row) for row in rows]
            if strength == 2:  # what the configuration refuses is a result, too
                found += [Cell(pair) for pair in refused if clash(pair) is None]
    return list({(c.name, c.features): c for c in found}.values())


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
