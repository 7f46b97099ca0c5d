"""The combinations of earlier designs, from `named.toml`."""

from __future__ import annotations

import tomllib
from functools import cache
from importlib import resources
from typing import Any

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
        cells.append(
            Cell(
                features=tuple(name for name in order if name in names),
                options=_leaves(entry.get("options", {})),
                switched=_leaves(entry.get("switched", {})),
                needs=entry.get("needs", ""),
                name=entry["name"],
                settles=entry["settles"],
            )
        )
    return tuple(cells)


def _leaves(given: dict[str, Any]) -> dict[str, Any]:
    """Lists of TOML as tuples, and an empty text as None, which leaves one unset."""
    plain = {k: None if v == "" else v for k, v in given.items()}
    return {k: tuple(v) if isinstance(v, list) else v for k, v in plain.items()}
