"""The runs of a sweep: every combination of values, with every seed."""

from __future__ import annotations

import hashlib
import itertools
import json
import re
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from lumina.config import Config, Source
from lumina.config.files import read_mapping, read_value
from lumina.config.leaves import canonical, convert
from lumina.config.provenance import show
from lumina.config.sections import LEAVES, SECTIONS
from lumina.errors import LuminaError

_KEYS = ("grid", "list", "seeds")

_OWN = ("run_dir", "experiment_name", "resume", "auto_resume", "branch_from", "seed",
        "nproc")  # fmt: skip
"""Options that a sweep sets itself, or that say how a process is started."""

_LONGEST_NAME = 80


@dataclass(frozen=True)
class Point:
    """One combination of values, trained with one seed.

    Attributes:
        values: option -> value.
        seed: of the run.
    """

    values: Mapping[str, Any]
    seed: int

    @property
    def setting(self) -> str:
        """The values in words."""
        words = [f"{leaf}={show(value)}" for leaf, value in self.values.items()]
        return " ".join(words) or "as configured"

    @property
    def name(self) -> str:
        """The name of its folder, the same in every process that has these values."""
        text = json.dumps([sorted(self.values.items()), self.seed], default=str)
        digest = hashlib.sha256(text.encode()).hexdigest()[:8]
        words = re.sub(r"[^A-Za-z0-9._=-]+", "_", f"{self.setting}-seed={self.seed}")
        return f"{words[:_LONGEST_NAME].strip('_.')}-{digest}"

    def config(self, base: Config, folder: Path) -> Config:
        """The settings of its run.

        Raises:
            LuminaError: E002 for values that do not go together, naming them.
        """
        place = {"run_dir": str(folder / self.name), "experiment_name": None}
        try:
            config = base.override(
                {**self.values, "seed": self.seed}, Source("flag", "sweep")
            )
            return config.override(place, Source("flag", "sweep"))
        except LuminaError as error:
            raise LuminaError(
                error.code, f"with {self.setting}: {error.message}", error.hint
            ) from error


def points(
    grid: Mapping[str, list[Any]], listed: Iterable[Mapping[str, Any]], seeds: list[int]
) -> list[Point]:
    """Every combination of the grid with every entry of the list and every seed.

    Seeds of one combination follow each other.
    """
    combined = [
        dict(zip(grid, values, strict=True))
        for values in itertools.product(*grid.values())
    ]
    found = [
        Point(one | dict(more), seed)
        for one in combined
        for more in (list(listed) or [{}])
        for seed in seeds
    ]
    return list({point.name: point for point in found}.values())


def read_file(path: str) -> tuple[dict[str, list[Any]], list[dict[str, Any]], Any]:
    """The grid, the list and the seeds of a YAML file.

    Raises:
        LuminaError: as for a configuration file; E004 for another key, E005 for values
            of a wrong form.
    """
    values = read_mapping(Path(path))
    for key in values:
        if key not in _KEYS:
            raise LuminaError(
                "E004",
                f"{path}: {key!r} is not a key of a sweep",
                f"the keys are {', '.join(_KEYS)}; options of every run are given as "
                "for `lumina train`",
            )
    grid, listed = values.get("grid") or {}, values.get("list") or []
    if not isinstance(grid, Mapping) or not isinstance(listed, list):
        raise LuminaError(
            "E005",
            f"{path}: grid maps options to lists of values, and list holds mappings",
            "grid: {learning_rate: [1e-3, 3e-4]}",
        )
    entries = []
    for entry in listed:
        if not isinstance(entry, Mapping):
            raise LuminaError(
                "E005",
                f"{path}: {entry!r} in list is no mapping of options to values",
                "list: [{learning_rate: 1e-3, warmup_ratio: 0.1}]",
            )
        leaves = {option(str(name)): value for name, value in entry.items()}
        entries.append({leaf: convert(leaf, v) for leaf, v in leaves.items()})
    found = {}
    for name, held in grid.items():
        leaf = option(str(name))
        found[leaf] = _converted(leaf, held, f"{path}: {name}")
    return found, entries, values.get("seeds")


def parse_grid(entries: Iterable[str]) -> dict[str, list[Any]]:
    """The grid of `--grid OPTION=VALUE,VALUE` entries.

    Raises:
        LuminaError: E005 for an entry of another form, E004 for an unknown option, E002
            for one that is named twice.
    """
    grid: dict[str, list[Any]] = {}
    for entry in entries:
        name, equals, text = entry.partition("=")
        if not equals or not text.strip():
            raise LuminaError(
                "E005",
                f"--grid cannot be {entry!r}",
                "write OPTION=VALUE,VALUE, such as learning_rate=1e-3,3e-4",
            )
        leaf = option(name)
        if leaf in grid:
            raise LuminaError("E002", f"--grid names {leaf} twice", "name it once")
        grid[leaf] = _converted(leaf, read_value(f"[{text}]"), f"--grid {name}")
    return grid


def parse_seeds(value: Any, first: int) -> list[int]:
    """The seeds: a number of them from the run's own seed on, or a list.

    Raises:
        LuminaError: E005 for anything else.
    """
    if value is None:
        return [first]
    if isinstance(value, str):
        value = read_value(f"[{value}]" if "," in value else value)
    if type(value) is int and value >= 1:
        return list(range(first, first + value))
    if isinstance(value, list) and value and all(type(s) is int for s in value):
        return list(dict.fromkeys(value))
    raise LuminaError(
        "E005",
        f"seeds cannot be {value!r}",
        "write how many, such as 3, or which, such as 1,5,9",
    )


def option(name: str) -> str:
    """The one name of an option that a sweep varies; `section.option` is understood.

    Raises:
        LuminaError: E004 for an unknown option or one of another section, E002 for one
            that a sweep sets itself.
    """
    group, _, last = name.strip().rpartition(".")
    leaf = canonical(last)
    if leaf == "preset" or leaf in _OWN:
        raise LuminaError(
            "E002",
            f"a sweep cannot vary {leaf}",
            "use --seeds" if leaf == "seed" else "it is the same for all of its runs",
        )
    wrong = group in SECTIONS and LEAVES[leaf] != group
    if wrong or (group and group not in (*SECTIONS, "optimizer")):
        raise LuminaError(
            "E004",
            f"{name!r} is not an option",
            f"write {leaf}, or {LEAVES[leaf]}.{leaf}",
        )
    return leaf


def _converted(leaf: str, values: Any, where: str) -> list[Any]:
    if not isinstance(values, list) or not values:
        raise LuminaError("E005", f"{where}: no list of values", "name one or more")
    return [convert(leaf, value) for value in values]
