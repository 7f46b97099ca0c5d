"""Puzzles -> rows of one length with their solutions, and steps made of them."""

from __future__ import annotations

import hashlib
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, field, replace
from functools import cached_property
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from lumina.batch import IGNORE, Batch
from lumina.data.arc import FORMATS as ARC_FORMATS
from lumina.data.arc import ArcStore, ArcTests, prepare_arc
from lumina.data.cache import build_once, cache_root
from lumina.data.files import (
    FORMATS,
    content_hash,
    count_left_out,
    find_files,
    tell_left_out,
)
from lumina.data.order import EMPTY, RowOrder, Shuffle, Taken, permutation
from lumina.data.stream import Read, RowStream
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

EXPLORING = 2
"""Uniform numbers of a row that are handed to the model."""

DEFAULT_HELD_OUT = 0.05

SIZES = {"sudoku": (CELLS, "a Sudoku has 81 cells"), "arc": (900, "ARC has 30 x 30")}
"""Positions of a row by `puzzle`, and why."""

Rows = tuple[Tensor, Tensor, Tensor | None]
"""Inputs and labels [B, S] and puzzle identifiers [B] or None, all int64."""


@dataclass(frozen=True)
class PuzzleStore:
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

    def rows(self, chosen: NDArray[np.int64], uniforms: Tensor) -> Rows:
        """Puzzles, each changed; `EMPTY` repeats one without labels."""
        inputs, labels = _tokens(self, chosen)
        changed = augment(inputs, labels.clamp(min=0), uniforms)
        return changed[0], torch.where(labels == IGNORE, IGNORE, changed[1]), None

    @cached_property
    def _order(self) -> NDArray[np.int64]:
        return permutation(len(self), 0, 0, self.fingerprint)

    def asked(self, chosen: NDArray[np.int64]) -> Rows:
        """Puzzles as they are, by their place in a fixed order."""
        found = self._order[np.maximum(chosen, 0)]
        return *_tokens(self, np.where(chosen == EMPTY, EMPTY, found)), None


@dataclass(frozen=True)
class PreparedPuzzles:
    """Puzzles that are ready to train on; compare `lumina.data.prepare.Prepared`.

    Attributes:
        train: what is learned from.
        eval: held-out puzzles, or None; none is a changed form of one in `train`.
        stats: counts, plain JSON values.
    """

    train: PuzzleStore | ArcStore
    eval: PuzzleStore | ArcTests | None
    stats: dict[str, Any]
    tokenizer: None = None
    skipped: list[Any] = field(default_factory=list)


def prepare_puzzles(
    config: Config, on_event: Callable[..., None] | None = None
) -> PreparedPuzzles:
    """Read the puzzles and hold some out; see `prepare_arc` for ARC.

    Args:
        config: names the files and the kind of puzzle.
        on_event: told of files that are not read; called as that of `prepare`.

    Raises:
        LuminaError: E002 for another length of row than the puzzles'; and see
            `prepare_arc` and `prepare_sudokus`.
    """
    kind = config.hrm.puzzle
    length, why = SIZES[kind]
    if config.model.seq_length != length:
        raise LuminaError(
            "E002",
            f"{why}, seq_length is {config.model.seq_length}",
            f"use --seq-length {length}, or for text --hrm-mode language_model",
        )
    formats = ARC_FORMATS if kind == "arc" else FORMATS
    named = [*config.data.train_data, *config.data.eval_data]
    tell_left_out(count_left_out(named, formats), on_event, formats)
    share = config.data.eval_fraction
    share = DEFAULT_HELD_OUT if share is None else share
    if kind == "arc":
        found = prepare_arc(
            config.data.train_data,
            config.data.eval_data,
            held_out=share,
            augmentations=config.hrm.puzzle_augmentations,
            votes=config.hrm.puzzle_votes,
        )
        return PreparedPuzzles(*found)
    return prepare_sudokus(config, share)


def prepare_sudokus(config: Config, share: float) -> PreparedPuzzles:
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
    return PreparedPuzzles(store, evaluation, stats)


def _store(boards: NDArray[np.uint8], solutions: NDArray[np.uint8]) -> PuzzleStore:
    return PuzzleStore(boards + 1, solutions + 1)


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


class PuzzleStream(RowStream):
    """Cuts shuffled puzzles into steps, each puzzle changed anew every epoch.

    Every step offers `global_batch_size` puzzles; a model with a carry takes those for
    which it has a row free and passes over the others, as the reference does. Which
    puzzles, how they are changed and what the model draws depend on the seed and the
    cursor alone.

    Args:
        store: the puzzles.
        global_batch_size: rows of a step, over all ranks.
        seed: decides order and changes.
        epochs: passes over the puzzles; None: without end.
    """

    utilisation = 1.0
    """Share of positions that hold a token."""

    def __init__(
        self,
        store: PuzzleStore | ArcStore,
        *,
        global_batch_size: int,
        seed: int,
        epochs: float | None = None,
    ) -> None:
        self.store = store
        fingerprint = store.fingerprint
        self.order = RowOrder(
            Shuffle(len(store), seed=seed, fingerprint=fingerprint),
            global_batch_size=global_batch_size,
            epochs=epochs,
        )
        digest = hashlib.sha256(f"{seed}:{fingerprint}".encode()).digest()
        self._key = int.from_bytes(digest[:16], "little")
        self._drawn = -(-(EXPLORING + store.draws) // 4) * 4  # Philox makes four

    def _read(self, taken: Taken, mine: Sequence[slice]) -> Read:
        batch, size = self._batch(taken), self.order.global_batch_size
        # Losses are sums over puzzles; rows that go on count in every step.
        return Read(
            [_rows(batch, part) for part in mine],
            loss_tokens=size,
            tokens=size * self.store.seq_length,
        )

    def _batch(self, taken: Taken) -> Batch:
        """The global batch of these puzzles."""
        size = self.order.global_batch_size
        draws = np.random.Philox(key=self._key).advance(taken.begin * self._drawn // 4)
        uniforms = torch.from_numpy(
            np.random.Generator(draws).random((size, self._drawn))
        ).float()
        changes = uniforms[:, EXPLORING:][:, : self.store.draws]
        batch = _batch(self.store.rows(taken.rows(size), changes))
        return replace(batch, uniforms=uniforms[:, :EXPLORING].contiguous())


def eval_puzzles(
    store: PuzzleStore | ArcTests,
    batch_size: int,
    limit: int,
    *,
    rank: int = 0,
    world_size: int = 1,
) -> Iterator[Batch]:
    """Held-out puzzles as they are, always the same ones; ranks take turns.

    Args:
        store: the held-out puzzles.
        batch_size: rows of a batch.
        limit: the most batches, over all ranks.
    """
    batches = min(-(-len(store) // batch_size), limit)
    for first in range(0, batches, world_size):
        rows = np.full(batch_size, EMPTY, dtype=np.int64)
        index = first + rank
        if index < batches:
            last = min((index + 1) * batch_size, len(store))
            chosen = np.arange(index * batch_size, last)
            rows[: len(chosen)] = chosen
        yield _batch(store.asked(rows))


def _batch(rows: Rows) -> Batch:
    inputs, labels, identifiers = rows
    return replace(Batch.from_rows(inputs, labels), task_ids=identifiers)


def _tokens(
    store: PuzzleStore, rows: NDArray[np.int64]
) -> tuple[torch.Tensor, torch.Tensor]:
    """Inputs and labels [B, 81] int64; an empty row repeats a puzzle without labels."""
    inputs = torch.from_numpy(store.inputs[np.maximum(rows, 0)].astype(np.int64))
    labels = torch.from_numpy(store.labels[np.maximum(rows, 0)].astype(np.int64))
    labels[torch.from_numpy(rows == EMPTY)] = IGNORE
    return inputs, labels


def _rows(batch: Batch, rows: slice) -> Batch:
    """Some rows of a batch of puzzles."""
    assert batch.uniforms is not None
    part = Batch.from_rows(batch.input_ids[rows], batch.labels[rows])
    ids = batch.task_ids
    return replace(
        part,
        uniforms=batch.uniforms[rows],
        task_ids=None if ids is None else ids[rows],
    )
