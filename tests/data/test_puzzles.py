"""Puzzles as data of a run: held out without disguise, in an order that is known."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
import torch

from lumina.batch import IGNORE
from lumina.config import Config
from lumina.data.kind import Request
from lumina.data.kinds import chosen_kind
from lumina.data.puzzles import PuzzleData, PuzzleStream, eval_puzzles
from lumina.data.sudoku import DRAWS, augment, invariants, solve
from lumina.data.sudoku_data import SudokuStore
from lumina.errors import LuminaError

SOLVED = (
    "483921657967345821251876493548132976729564138136798245372689514814253769695417382"
)


def lines(count: int) -> list[str]:
    """Puzzles with five cells to fill, no two of them changed forms of each other."""
    return [SOLVED[:n] + "." * 5 + SOLVED[n + 5 :] for n in range(count)]


def config(tmp_path: Path, puzzles: list[str], **leaves: object) -> Config:
    path = tmp_path / "train.txt"
    path.write_text("\n".join(puzzles))
    return Config(use_hrm=True, seq_length=81, train_data=(str(path),), **leaves)  # type: ignore[arg-type]


def prepare_puzzles(config: Config) -> PuzzleData:
    """The puzzles that the settings describe."""
    data = chosen_kind(config).prepare(Request(config))
    assert isinstance(data, PuzzleData)
    return data


def changed(puzzle: str, seed: int = 0) -> str:
    """The same puzzle with other names of digits, rows and columns."""
    cells = torch.tensor([[0 if c == "." else int(c) for c in puzzle]]) + 1
    draws = torch.rand(1, DRAWS, generator=torch.Generator().manual_seed(seed))
    return "".join(str(c - 1) for c in augment(cells, cells, draws)[0][0].tolist())


def test_solutions_are_found_and_some_puzzles_held_out(tmp_path: Path) -> None:
    prepared = prepare_puzzles(config(tmp_path, lines(20), eval_fraction=0.2))
    assert (len(prepared.train), len(prepared.eval or ())) == (16, 4)
    for board, labels in zip(
        prepared.train.inputs - 1, prepared.train.labels - 1, strict=True
    ):
        assert (labels == solve(board)[0]).all()
    again = prepare_puzzles(config(tmp_path, lines(20), eval_fraction=0.2))
    assert again.train.fingerprint == prepared.train.fingerprint


def test_a_changed_form_counts_once_and_never_on_both_sides(tmp_path: Path) -> None:
    puzzles = lines(6)
    twice = [*puzzles, *(changed(p) for p in puzzles)]
    assert len(prepare_puzzles(config(tmp_path, twice, eval_fraction=0.0)).train) == 6
    held = tmp_path / "eval.txt"
    held.write_text(changed(puzzles[2], seed=9))
    prepared = prepare_puzzles(config(tmp_path, puzzles, eval_data=(str(held),)))
    assert len(prepared.train) == 5 and prepared.stats["puzzles_left_out"] == 1
    assert prepared.eval is not None
    assert not np.isin(
        invariants(prepared.eval.inputs - 1), invariants(prepared.train.inputs - 1)
    ).any()


@pytest.mark.parametrize(
    ("puzzle", "told"), [("." * 81, "several"), ("11" + "." * 79, "no solution")]
)
def test_a_puzzle_without_one_solution_is_refused(
    tmp_path: Path, puzzle: str, told: str
) -> None:
    with pytest.raises(LuminaError, match=told) as caught:
        prepare_puzzles(config(tmp_path, [puzzle]))
    assert caught.value.code == "E102"


@pytest.fixture
def store() -> SudokuStore:
    cells = np.array([[int(c) for c in SOLVED]] * 10, dtype=np.uint8) + 1
    inputs = cells.copy()
    inputs[np.arange(10), np.arange(10)] = 1
    return SudokuStore(inputs, cells)


def test_the_order_is_a_function_of_seed_and_cursor(store: SudokuStore) -> None:
    def steps(stream: PuzzleStream, count: int, **split: int) -> list:
        cursor, found = stream.start, []
        for _ in range(count):
            step = stream.step(cursor, **split)
            assert step is not None
            cursor = step.cursor
            found.append(step)
        return found

    stream = PuzzleStream(store, global_batch_size=4, seed=1)
    whole = steps(stream, 5, micro_batch_size=4)
    # Another object, begun in the middle.
    middle = PuzzleStream(store, global_batch_size=4, seed=1)
    step = middle.step(whole[2].cursor, micro_batch_size=4)
    assert step is not None
    for name in ("input_ids", "labels", "uniforms"):
        expected = getattr(whole[3].micro_batches[0], name)
        assert torch.equal(getattr(step.micro_batches[0], name), expected)
    # Divided over ranks and micro-batches.
    parts = [
        batch
        for rank in range(2)
        for batch in steps(stream, 2, rank=rank, data_ranks=2, micro_batch_size=1)[
            1
        ].micro_batches
    ]
    assert torch.equal(
        torch.cat([b.input_ids for b in parts]), whole[1].micro_batches[0].input_ids
    )
    seen = [row for s in whole for row in s.row_ids]
    assert sorted(seen)[:10] == [(0, r) for r in range(10)]
    assert len(set(seen)) == 20
    other = PuzzleStream(store, global_batch_size=4, seed=2)
    assert not torch.equal(
        steps(other, 1, micro_batch_size=4)[0].micro_batches[0].input_ids,
        whole[0].micro_batches[0].input_ids,
    )


def test_a_puzzle_is_changed_anew_in_every_epoch(store: SudokuStore) -> None:
    stream = PuzzleStream(store, global_batch_size=10, seed=1)
    first = stream.step({"epoch": 0, "row": 0}, micro_batch_size=10)
    second = stream.step({"epoch": 1, "row": 0}, micro_batch_size=10)
    assert first is not None and second is not None
    solutions = torch.cat([s.micro_batches[0].labels for s in (first, second)])
    assert len(torch.unique(solutions, dim=0)) == 20


def test_the_end_is_filled_up_with_rows_that_do_not_count(store: SudokuStore) -> None:
    stream = PuzzleStream(store, global_batch_size=4, seed=1, epochs=1)
    assert stream.order.steps == 3
    last = stream.step({"epoch": 0, "row": 8}, micro_batch_size=4)
    assert last is not None
    labelled = (last.micro_batches[0].labels != IGNORE).any(1)
    assert labelled.tolist() == [True, True, False, False]
    assert stream.step(last.cursor, micro_batch_size=4) is None


def test_held_out_puzzles_are_the_same_on_any_number_of_ranks(
    store: SudokuStore,
) -> None:
    alone = torch.cat([b.input_ids for b in eval_puzzles(store, 2, 5)])
    ranks = [list(eval_puzzles(store, 2, 5, rank=r, data_ranks=2)) for r in range(2)]
    assert len(ranks[0]) == len(ranks[1])
    shared = torch.cat([
        b.input_ids[(b.labels != IGNORE).any(1)] for rank in ranks for b in rank
    ])  # fmt: skip
    assert sorted(map(tuple, shared.tolist())) == sorted(map(tuple, alone.tolist()))
    assert sorted(map(tuple, alone.tolist())) == sorted(
        map(tuple, store.inputs.astype(int).tolist())
    )
