"""ARC tasks from JSON: reading and checking them, and finding one in disguise.

Two layouts are read: a file a task (`{"train": [...], "test": [...]}`, the public
repositories), and a file of many (`NAME_challenges.json`, task id -> the same) with the
test outputs in `NAME_solutions.json` beside it (the competitions).
"""

from __future__ import annotations

from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, NoReturn

import numpy as np
from numpy.typing import NDArray

from lumina.errors import LuminaError
from lumina.json_objects import read_object

LARGEST = 30
"""Rows and columns a grid may have."""

COLOURS = 10

MOST_BYTES = 2**30
"""A larger file of tasks is refused before it is read."""

Grid = NDArray[np.uint8]
Pair = tuple[Grid, Grid]

_LAYOUT = 'a task is {"train": [...], "test": [...]} of pairs with "input" and "output"'


@dataclass
class Task:
    """One task.

    Attributes:
        name: its id.
        train: the demonstrations.
        test: what is asked: an input, and its output where that is known.
    """

    name: str
    train: list[Pair] = field(default_factory=list)
    test: list[tuple[Grid, Grid | None]] = field(default_factory=list)

    def answered(self) -> list[Pair]:
        """The test pairs whose output is known."""
        return [(given, out) for given, out in self.test if out is not None]

    def content(self) -> bytes:
        """The same bytes for the same pairs in any order."""
        pairs = self.train + self.answered()
        return b"".join(sorted(_bytes(a) + _bytes(b) for a, b in pairs))


def read_tasks(files: list[Path]) -> list[Task]:
    """Every different task of these files.

    Raises:
        LuminaError: E101 for what is no JSON or no grids, E102 for a task without a
            field, E105 where there is no task.
    """
    read = {file: _json(file) for file in files}
    solved = {f.resolve() for f, content in read.items() if _only_solutions(content)}
    used: set[Path] = set()
    found: dict[bytes, Task] = {}
    for file, content in read.items():
        if file.resolve() in solved:
            continue
        if "train" in content and "test" in content:
            tasks = [_task(file, file.stem, content, None)]
        else:
            beside = file.with_name(file.name.replace("_challenges", "_solutions"))
            answers: dict[str, Any] = {}
            if beside != file and beside.is_file():
                used.add(beside.resolve())
                answers = read[beside] if beside in read else _json(beside)
            tasks = [_task(file, n, t, answers.get(n)) for n, t in content.items()]
        for task in tasks:
            found.setdefault(task.content(), task)
    if lonely := sorted(solved - used):
        raise LuminaError(
            "E101",
            f"{lonely[0]} holds solutions only",
            "put NAME_challenges.json beside NAME_solutions.json",
        )
    if not found:
        raise LuminaError("E105", "there is no ARC task in these files", _LAYOUT)
    return list(found.values())


def _json(file: Path) -> dict[str, Any]:
    return read_object(file, _LAYOUT, most_bytes=MOST_BYTES)


def _only_solutions(content: dict[str, Any]) -> bool:
    """Whether a file maps ids to lists of grids."""
    named = {"train", "test"} <= content.keys()
    return (
        bool(content) and not named and isinstance(next(iter(content.values())), list)
    )


def _task(file: Path, name: str, content: Any, answers: Any) -> Task:
    """One task, every grid of it checked."""

    def refuse(code: str, what: str) -> NoReturn:
        raise LuminaError(code, f"{file}: task {name}: {what}", _LAYOUT)

    def grid(value: Any, where: str) -> Grid:
        problem = _problem(value)
        if problem:
            refuse("E101", f"{where} {problem}")
        return np.array(value, dtype=np.uint8)

    task = Task(str(name))
    for part in ("train", "test"):
        pairs = content.get(part) if isinstance(content, dict) else None
        if not isinstance(pairs, list) or not pairs:
            refuse("E102", f"has no list of pairs {part!r}")
        if part == "test" and answers is not None and len(answers) != len(pairs):
            refuse("E101", f"{len(pairs)} test inputs, {len(answers)} solutions")
        for index, pair in enumerate(pairs):
            where = f"{part} pair {index + 1}"
            if not isinstance(pair, dict) or "input" not in pair:
                refuse("E102", f"{where} has no 'input'")
            given = grid(pair["input"], f"{where} input")
            out = pair.get("output")
            if out is None and part == "test" and answers is not None:
                out = answers[index]
            if out is not None:
                out = grid(out, f"{where} output")
            if part == "test":
                task.test.append((given, out))
            elif out is None:
                refuse("E102", f"{where} has no 'output'")
            else:
                task.train.append((given, out))
    return task


def _problem(value: Any) -> str | None:
    """Why a value is no grid, or None."""
    if not isinstance(value, list) or not all(isinstance(row, list) for row in value):
        return "is no list of rows"
    rows, widths = len(value), {len(row) for row in value}
    if len(widths) != 1 or not 1 <= rows <= LARGEST or not 1 <= min(widths) <= LARGEST:
        return f"is no grid of 1 to {LARGEST} equal rows of 1 to {LARGEST} cells"
    colours = {cell for row in value for cell in row if type(cell) is int}
    plain = all(type(cell) is int for row in value for cell in row)
    if not plain or min(colours) < 0 or max(colours) >= COLOURS:
        return "has a cell that is no colour from 0 to 9"
    return None


def _bytes(grid: Grid) -> bytes:
    return bytes(grid.shape) + grid.tobytes()


def turned(grid: Grid, turn: int) -> Grid:
    """One of the eight turns and reflections; 0 is none.

    Bit 0 flips the rows, bit 1 the columns, then bit 2 transposes.
    """
    if turn & 1:
        grid = grid[::-1]
    if turn & 2:
        grid = grid[:, ::-1]
    return grid.T if turn & 4 else grid


def turned_back(grid: Grid, turn: int) -> Grid:
    """The inverse of `turned`."""
    return turned(grid.T if turn & 4 else grid, turn & 3)


def disguise_free(pair: Pair) -> bytes:
    """The same bytes for a pair in every turn and naming of colours."""
    forms: list[bytes] = []
    for turn in range(8):
        given, out = (turned(g, turn) for g in pair)
        cells = np.concatenate([given.ravel(), out.ravel()])
        colours, first = np.unique(cells, return_index=True)
        names = np.zeros(COLOURS, dtype=np.uint8)
        names[colours[np.argsort(first)]] = np.arange(len(colours))
        shape = bytes(given.shape) + bytes(out.shape)
        forms.append(shape + names[cells].tobytes())
    return min(forms)
