"""Sudoku: reading files, solving, and the changes that keep a puzzle a puzzle."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from lumina.errors import LuminaError

CELLS = 81
VOCABULARY = 11
"""Tokens: 0 padding (not used), 1 an empty cell, 2 to 10 the digits 1 to 9."""

DRAWS = 9 + 2 * (3 + 9) + 1
"""Uniform numbers that `augment` uses for one puzzle."""

_ALL = 0b111111111
_ROW = [i // 9 for i in range(CELLS)]
_COLUMN = [i % 9 for i in range(CELLS)]
_BOX = [i // 27 * 3 + i % 9 // 3 for i in range(CELLS)]
_UNITS = [
    *([9 * r + c for c in range(9)] for r in range(9)),
    *([9 * r + c for r in range(9)] for c in range(9)),
    *([i for i in range(CELLS) if _BOX[i] == b] for b in range(9)),
]
_PEERS = [
    tuple(
        j
        for j in range(CELLS)
        if j != i
        and (_ROW[i] == _ROW[j] or _COLUMN[i] == _COLUMN[j] or _BOX[i] == _BOX[j])
    )
    for i in range(CELLS)
]
_UNITS_OF = [tuple(u for u in _UNITS if i in u) for i in range(CELLS)]


def read_sudokus(path: Path) -> tuple[NDArray[np.uint8], NDArray[np.uint8]]:
    """Puzzles of a file, one a line, and the solutions that it gives.

    The first field of 81 characters of a line (fields end at a comma or a space) is the
    puzzle, row by row, `0` or `.` where empty; a second one is its solution. Other
    fields, empty lines and lines that begin with `#` are left out, and so is the head
    of a CSV file.

    Returns:
        Puzzles [N, 81], 0 where empty; solutions [N, 81], all 0 where none is given.

    Raises:
        LuminaError: E101 for a line that is no puzzle or a solution that is not the
            puzzle's, E105 for a file without any.
    """
    boards, solutions = [], []
    with path.open(encoding="utf-8") as lines:
        for number, raw in enumerate(lines, 1):
            line = raw.strip()
            if not line or line.startswith("#"):
                continue
            found = [f for f in line.replace(",", " ").split() if _is_board(f)]
            if not found and number == 1:
                continue
            if not found or (len(found) > 1 and not _solves(found[0], found[1])):
                what = "is no Sudoku" if not found else "has another puzzle's solution"
                raise LuminaError(
                    "E101",
                    f"{path} line {number} {what}: {line[:20]!r}",
                    "a line is 81 digits, 0 or . for an empty cell, and perhaps the "
                    "81 digits of its solution",
                )
            boards.append(_cells(found[0]))
            solutions.append(_cells(found[1]) if len(found) > 1 else [0] * CELLS)
    if not boards:
        raise LuminaError(
            "E105",
            f"{path} holds no puzzle",
            "one puzzle a line; a reasoner of text has --hrm-mode language_model",
        )
    return np.array(boards, dtype=np.uint8), np.array(solutions, dtype=np.uint8)


def _is_board(field: str) -> bool:
    return len(field) == CELLS and all(c in ".0123456789" for c in field)


def _cells(field: str) -> list[int]:
    return [int(c) for c in field.replace(".", "0")]


def _solves(puzzle: str, solution: str) -> bool:
    """Whether the digits of a solution are the puzzle's and every unit is complete."""
    given, cells = _cells(puzzle), _cells(solution)
    return all(g in (0, c) for g, c in zip(given, cells, strict=True)) and all(
        len({cells[i] for i in unit}) == 9 and 0 not in (cells[i] for i in unit)
        for unit in _UNITS
    )


def solve(board: NDArray[np.uint8], limit: int = 2) -> list[NDArray[np.uint8]]:
    """Solutions of a puzzle, at most `limit` of them.

    Constraint propagation (a cell with one digit left, a digit with one cell left),
    then the cell with the fewest digits left is tried.

    Args:
        board: [81], 0 where empty.
        limit: stop after so many; two tell whether a puzzle has exactly one.
    """
    left = [_ALL] * CELLS
    for cell, digit in enumerate(board.tolist()):
        if digit and not _assign(left, cell, 1 << (digit - 1)):
            return []
    found: list[NDArray[np.uint8]] = []
    _search(left, limit, found)
    return found


def _search(left: list[int], limit: int, found: list[NDArray[np.uint8]]) -> None:
    open_cells = [i for i in range(CELLS) if left[i] & (left[i] - 1)]
    if not open_cells:
        found.append(np.array([m.bit_length() for m in left], dtype=np.uint8))
        return
    cell = min(open_cells, key=lambda i: left[i].bit_count())
    digits = left[cell]
    while digits and len(found) < limit:
        digit = digits & -digits
        digits ^= digit
        tried = left.copy()
        if _assign(tried, cell, digit):
            _search(tried, limit, found)


def _assign(left: list[int], cell: int, digit: int) -> bool:
    """Leave only `digit` in `cell` and all that follows; False on a contradiction."""
    others = left[cell] & ~digit
    while others:
        other = others & -others
        others ^= other
        if not _strike(left, cell, other):
            return False
    return bool(left[cell])


def _strike(left: list[int], cell: int, digit: int) -> bool:
    """Take `digit` from `cell`, and all that follows."""
    if not left[cell] & digit:
        return True
    left[cell] ^= digit
    rest = left[cell]
    if not rest:
        return False
    if not rest & (rest - 1):
        for peer in _PEERS[cell]:
            if left[peer] & rest and not _strike(left, peer, rest):
                return False
    for unit in _UNITS_OF[cell]:
        places = [i for i in unit if left[i] & digit]
        if not places:
            return False
        if len(places) == 1 and not _assign(left, places[0], digit):
            return False
    return True


def augment(inputs: Tensor, labels: Tensor, uniforms: Tensor) -> tuple[Tensor, Tensor]:
    """Another puzzle of the same kind, with its solution.

    The digits are permuted, bands and the rows in them, stacks and the columns in
    them, and half of the puzzles are transposed. A pure function of its arguments, on
    any device.

    Args:
        inputs: [B, 81] int64 tokens of puzzles.
        labels: [B, 81] int64 tokens of their solutions.
        uniforms: [B, `DRAWS`] numbers in [0, 1).
    """
    digits, rows, columns, transpose = uniforms.split((9, 12, 12, 1), dim=1)
    row, column = _lines(rows)[:, :, None], _lines(columns)[:, None, :]
    straight, turned = row * 9 + column, column * 9 + row
    source = torch.where(transpose[:, :, None] < 0.5, straight, turned).flatten(1)
    kept = torch.arange(2, device=inputs.device).expand(len(inputs), 2)
    mapping = torch.cat((kept, digits.argsort(dim=1) + 2), dim=1)
    return (
        mapping.gather(1, inputs.gather(1, source)),
        mapping.gather(1, labels.gather(1, source)),
    )


def _lines(uniforms: Tensor) -> Tensor:
    """[B, 12] draws to a permutation [B, 9] of lines that keeps threes together."""
    bands = uniforms[:, :3].argsort(dim=1)
    within = uniforms[:, 3:].unflatten(1, (3, 3)).argsort(dim=2)
    lines: Tensor = bands[:, :, None] * 3 + within
    return lines.flatten(1)


def invariants(boards: NDArray[np.uint8], rounds: int = 3) -> NDArray[np.uint64]:
    """A number for each puzzle that none of the changes of `augment` alters.

    Equivalent puzzles have equal numbers; unequal puzzles almost never do. It is the
    colour refinement of the givens, joined by the row (and column), the box and the
    digit they share.

    Args:
        boards: [N, 81], 0 where empty.
        rounds: of refinement.
    """
    given = boards > 0
    colour = given.astype(np.uint64)
    for turn in range(rounds):
        shared = []
        for groups in (np.array(_ROW), np.array(_COLUMN), np.array(_BOX)):
            shared.append(_spread(colour, np.broadcast_to(groups, boards.shape), 9))
        by_digit = _spread(colour, boards.astype(np.int64), 10)
        row, column, box = shared
        # Rows and columns change places in a transposed puzzle.
        lines = _mix(row) + _mix(column) + _mix(row ^ column)
        mixed = _mix(colour + np.uint64(turn)) ^ _mix(lines) ^ _mix(box * np.uint64(3))
        colour = np.where(given, _mix(mixed + by_digit * np.uint64(5)), _mix(mixed))
    totals: NDArray[np.uint64] = _mix(colour).sum(axis=1, dtype=np.uint64)
    return totals


def _spread(
    colour: NDArray[np.uint64], groups: NDArray[np.int64], count: int
) -> NDArray[np.uint64]:
    """The sum of the mixed colours of a cell's group, for every cell."""
    mixed = _mix(colour)
    sums = np.stack(
        [np.where(groups == g, mixed, 0).sum(1, dtype=np.uint64) for g in range(count)],
        axis=1,
    )
    spread: NDArray[np.uint64] = np.take_along_axis(sums, groups, axis=1)
    return spread


def _mix(values: NDArray[np.uint64]) -> NDArray[np.uint64]:
    """Scramble 64-bit numbers (splitmix64's finaliser)."""
    with np.errstate(over="ignore"):
        values = values + np.uint64(0x9E3779B97F4A7C15)
        values = (values ^ (values >> np.uint64(30))) * np.uint64(0xBF58476D1CE4E5B9)
        values = (values ^ (values >> np.uint64(27))) * np.uint64(0x94D049BB133111EB)
        return values ^ (values >> np.uint64(31))
