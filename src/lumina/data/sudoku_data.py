"""Sudoku puzzles and their solutions as data of a run."""

from __future__ import annotations

import hashlib
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from lumina.batch import IGNORE
from lumina.cache_root import cache_root
from lumina.data.cache import build_once
from lumina.data.files import PLAIN, content_hash, find_files
from lumina.data.kind import DataKind, Request
from lumina.data.order import EMPTY, permutation
from lumina.data.puzzles import PuzzleData, PuzzleRows, check_puzzles, held_out_share
from lumina.data.sudoku import (
    CELLS,
    DRAWS,
    VOCABULARY,
    augment,
    invariants,
    read_sudokus,
    solve,
)
from lumina.errors import LuminaError

if TYPE_CHECKING:
    from lumina.config import Config


@dataclass(frozen=True)
class SudokuStore:
    """Sudoku puzzles and solutions.

    Attributes:
        inputs: [N, 81] uint8 tokens; `labels` alike.
        fingerprint: of the content.
    """

    inputs: NDArray[np.uint8]
    labels: NDArray[np.uint8]

    vocab_size = VOCABULARY
    seq_length = CELLS
    num_puzzles = 1
    draws = DRAWS

    def __len__(self) -> int:
        return len(self.inputs)

    @property
    def fingerprint(self) -> str:
        """Names the content."""
        digest = hashlib.sha256(self.inputs.tobytes())
        digest.update(self.labels.tobytes())
        return digest.hexdigest()

    def rows(self, chosen: NDArray[np.int64], uniforms: Tensor) -> PuzzleRows:
        """Puzzles, each changed; `EMPTY` repeats one without labels."""
        inputs, labels = _tokens(self, chosen)
        changed = augment(inputs, labels.clamp(min=0), uniforms)
        return changed[0], torch.where(labels == IGNORE, IGNORE, changed[1]), None

    @cached_property
    def _order(self) -> NDArray[np.int64]:
        return permutation(len(self), 0, 0, self.fingerprint)

    def asked(self, chosen: NDArray[np.int64]) -> PuzzleRows:
        """Puzzles as they are, by their place in a fixed order."""
        found = self._order[np.maximum(chosen, 0)]
        return *_tokens(self, np.where(chosen == EMPTY, EMPTY, found)), None


def prepare_sudokus(config: Config, share: float) -> PuzzleData:
    """Read, solve where no solution is given, and hold some out.

    Of puzzles that are changed forms of each other (see `sudoku.augment`) only the
    first one counts. Solutions are kept under `LUMINA_CACHE`.

    Raises:
        LuminaError: E101 to E106 for the files, E102 for a puzzle that has no solution
            or several.
    """
    data = config.data
    boards, solutions = _load(find_files(data.train_data))
    train = np.ones(len(boards), dtype=bool)
    evaluation = None
    if data.eval_data:
        held, held_solutions = _load(find_files(data.eval_data))
        evaluation = _store(held, held_solutions)
        train = ~np.isin(invariants(boards), invariants(held))
        if not train.any():
            raise LuminaError(
                "E105",
                "every training puzzle is a changed form of one in eval_data",
                "name other puzzles with --eval-data",
            )
    else:
        count = min(round(share * len(boards)), len(boards) - 1)
        order = permutation(len(boards), 0, 0, "puzzles held out")[:count]
        train[order] = False
        if count:
            evaluation = _store(boards[~train], solutions[~train])
    store = _store(boards[train], solutions[train])
    stats = {
        "documents": len(store) + (len(evaluation) if evaluation else 0),
        "conversations": 0,
        "skipped": 0,
        "train_tokens": store.inputs.size,
        "eval_tokens": evaluation.inputs.size if evaluation else 0,
        "puzzles_left_out": len(train) - int(train.sum()) if data.eval_data else 0,
    }
    return PuzzleData(store, evaluation, stats)


def _store(boards: NDArray[np.uint8], solutions: NDArray[np.uint8]) -> SudokuStore:
    return SudokuStore(boards + 1, solutions + 1)


def _load(files: list[Path]) -> tuple[NDArray[np.uint8], NDArray[np.uint8]]:
    """Different puzzles of all files, with solutions."""
    key = hashlib.sha256("".join(content_hash(f) for f in files).encode()).hexdigest()

    def build(folder: Path) -> None:
        read = [read_sudokus(file) for file in files]
        boards = np.concatenate([b for b, _ in read])
        solutions = np.concatenate([s for _, s in read])
        _, first = np.unique(invariants(boards), return_index=True)
        chosen = np.sort(first)
        boards, solutions = boards[chosen], solutions[chosen]
        for board, solution in zip(boards, solutions, strict=True):
            if not solution[0]:
                solution[:] = _only_solution(board)
        np.save(folder / "puzzles.npy", np.stack([boards, solutions]))

    def load(folder: Path) -> NDArray[np.uint8]:
        try:
            found: NDArray[np.uint8] = np.load(folder / "puzzles.npy")
        except (OSError, ValueError) as error:
            raise LuminaError(
                "E101", f"{folder}: damaged: {error}", "remove the folder"
            ) from None
        return found

    (boards, solutions), _ = build_once(cache_root() / "puzzles", key[:40], build, load)
    return boards, solutions


def _only_solution(board: NDArray[np.uint8]) -> NDArray[np.uint8]:
    found = solve(board)
    if len(found) != 1:
        how = "no solution" if not found else "several solutions"
        shown = "".join(map(str, board))
        raise LuminaError(
            "E102", f"puzzle {shown} has {how}", "remove it, or give its solution"
        )
    return found[0]


def _tokens(
    store: SudokuStore, rows: NDArray[np.int64]
) -> tuple[torch.Tensor, torch.Tensor]:
    """Inputs and labels [B, 81] int64; an empty row repeats a puzzle without labels."""
    inputs = torch.from_numpy(store.inputs[np.maximum(rows, 0)].astype(np.int64))
    labels = torch.from_numpy(store.labels[np.maximum(rows, 0)].astype(np.int64))
    labels[torch.from_numpy(rows == EMPTY)] = IGNORE
    return inputs, labels


def _prepare(request: Request) -> PuzzleData:
    check_puzzles(request, CELLS, "a Sudoku has 81 cells", PLAIN)
    return prepare_sudokus(request.config, held_out_share(request.config))


KIND = DataKind(
    "sudoku",
    _prepare,
    gives="puzzles",
    applies=lambda settings: (
        settings.hrm.use_hrm
        and settings.hrm.hrm_mode == "puzzle"
        and settings.hrm.puzzle == "sudoku"
    ),
)
