"""The combinations of earlier designs, from `named.toml`."""

from __future__ import annotations

import tomllib
from functools import cache
from importlib import resources

from lumina.features import find_feature
from lumina.train.matrix.cell import Cell, tried_features


@cache
def named_cells() -> tuple[Cell, ...]:
    """Every cell of the file, in its order."""
    text = resources.files("lumina.train.matrix").joinpath("named.toml").read_text()
    order = tried_features()
    cells = []
    for entry in tomllib.loads(text)["cell"]:
        names = {find_feature(name).name for name in entry.get("features", [])}
        options = {
            leaf: tuple(value) if isinstance(value, list) else value
            for leaf, value in entry.get("options", {}).items()
        }
        cells.append(
            Cell(
                features=tuple(name for name in order if name in names),
                options=options,
                name=entry["name"],
                settles=entry["settles"],
            )
        )
    return tuple(cells)
