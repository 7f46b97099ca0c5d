"""Sudoku: files, solver, and the changes that keep a puzzle a puzzle."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
import torch

from lumina.data.sudoku import DRAWS, augment, invariants, read_sudokus, solve
from lumina.errors import LuminaError

PUZZLE = (
    "003020600900305001001806400008102900700000008006708200002609500800203009005010300"
)
SOLUTION = (
    "483921657967345821251876493548132976729564138136798245372689514814253769695417382"
)
SEVERAL = "." * 81


def board(text: str) -> np.ndarray:
    return np.array([int(c) for c in text.replace(".", "0")], dtype=np.uint8)


def is_solution(cells: np.ndarray) -> bool:
    grid = cells.reshape(9, 9)
    boxes = grid.reshape(3, 3, 3, 3).swapaxes(1, 2).reshape(9, 9)
    return all((np.sort(g, 1) == np.arange(1, 10)).all() for g in (grid, grid.T, boxes))


def test_the_solver_finds_the_solution_and_counts() -> None:
    assert [s.tolist() for s in solve(board(PUZZLE))] == [board(SOLUTION).tolist()]
    assert len(solve(board(SEVERAL))) == 2  # it stops once there are several
    assert solve(board("11" + "." * 79)) == []


@pytest.mark.parametrize("name", ["sudoku-hardest.txt", "sudoku-top95.txt"])
def test_puzzles_that_need_search_have_one_solution(
    name: str, shared_data: Path
) -> None:
    boards, _ = read_sudokus(shared_data / "puzzles/sudoku" / name)
    for puzzle in boards[:8]:
        (solution,) = solve(puzzle)
        assert is_solution(solution)
        assert (solution[puzzle > 0] == puzzle[puzzle > 0]).all()


def test_lines_may_bring_solutions_and_other_fields(tmp_path: Path) -> None:
    path = tmp_path / "some.csv"
    dots = PUZZLE.replace("0", ".")
    path.write_text(
        f"source,question,answer,rating\nx,{dots},{SOLUTION},3\n# note\n\n{PUZZLE}\n"
    )
    boards, solutions = read_sudokus(path)
    assert boards.tolist() == [board(PUZZLE).tolist()] * 2
    assert solutions[0].tolist() == board(SOLUTION).tolist()
    assert solutions[1].sum() == 0


@pytest.mark.parametrize(
    ("text", "code"),
    [
        (f"{PUZZLE}\nnot a puzzle\n", "E101"),
        (f"{PUZZLE}\n{PUZZLE[:-1]}\n", "E101"),
        (f"{PUZZLE}\n{PUZZLE[:-1]}x\n", "E101"),
        (f"{PUZZLE},{SOLUTION[1:] + SOLUTION[0]}\n", "E101"),
        ("\n", "E105"),
    ],
)
def test_what_is_no_puzzle_is_named(tmp_path: Path, text: str, code: str) -> None:
    path = tmp_path / "bad.txt"
    path.write_text(text)
    with pytest.raises(LuminaError) as caught:
        read_sudokus(path)
    assert caught.value.code == code


def test_changed_puzzles_are_puzzles_with_their_solutions() -> None:
    generator = torch.Generator().manual_seed(0)
    inputs = torch.from_numpy(board(PUZZLE).astype(np.int64) + 1).expand(200, 81)
    labels = torch.from_numpy(board(SOLUTION).astype(np.int64) + 1).expand(200, 81)
    draws = torch.rand(200, DRAWS, generator=generator)
    changed, solved = augment(inputs, labels, draws)
    for puzzle, solution in zip(changed.numpy() - 1, solved.numpy() - 1, strict=True):
        assert is_solution(solution)
        assert ((puzzle == 0) | (puzzle == solution)).all()
    assert ((changed > 1).sum(1) == (inputs[0] > 1).sum()).all()
    assert len(torch.unique(changed, dim=0)) == 200
    again, _ = augment(inputs, labels, draws)
    assert torch.equal(again, changed)


def test_equivalent_puzzles_are_told_from_others(shared_data: Path) -> None:
    boards, _ = read_sudokus(shared_data / "puzzles/sudoku" / "sudoku-easy50.txt")
    tokens = torch.from_numpy(boards.astype(np.int64) + 1)
    draws = torch.rand(len(boards), DRAWS, generator=torch.Generator().manual_seed(1))
    changed = augment(tokens, tokens, draws)[0].numpy().astype(np.uint8) - 1
    assert not (changed == boards).all(1).any()
    assert (invariants(changed) == invariants(boards)).all()
    one_digit_less = boards.copy()
    for puzzle in one_digit_less:
        puzzle[np.flatnonzero(puzzle)[0]] = 0
    assert not np.isin(invariants(one_digit_less), invariants(boards)).any()
