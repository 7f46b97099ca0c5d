"""ARC as data of a run: rows in many changed forms, tests held out, and the vote.

Every task comes in up to `augmentations` changed forms beside its own: turned or
reflected, its colours but black renamed. Each form of each task has an identifier, and
so a learned vector. As in sapientinc/HRM the demonstrations of the tasks that are asked
about are trained on, their test pairs never.
"""

from __future__ import annotations

import hashlib
from collections.abc import Sequence
from dataclasses import dataclass
from functools import cached_property
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from lumina.batch import IGNORE
from lumina.data.arc_rows import CELLS, VOCABULARY, Grids, grid_of
from lumina.data.arc_tasks import (
    COLOURS,
    LARGEST,
    Task,
    disguise_free,
    read_tasks,
    turned_back,
)
from lumina.data.files import Suffixes, find_files
from lumina.data.order import EMPTY, permutation
from lumina.errors import LuminaError

FILES = Suffixes((".json",))
ATTEMPTS = 2
"""Answers that may be given to a test input."""


@dataclass(frozen=True)
class Forms:
    """The changed forms of all tasks; the first form is the task as it is.

    Attributes:
        turns: [T, F] uint8, see `turned`.
        colours: [T, F, 10] uint8, the new colour of each colour; 0 stays 0.
        counts: [T] forms of a task; a task of few colours may have fewer than F.
    """

    turns: NDArray[np.uint8]
    colours: NDArray[np.uint8]
    counts: NDArray[np.int64]

    @staticmethod
    def of(tasks: list[Task], augmentations: int) -> Forms:
        """Forms that differ; more of them begin with the fewer."""
        shape = len(tasks), augmentations + 1
        turns = np.zeros(shape, dtype=np.uint8)
        plain = np.arange(COLOURS, dtype=np.uint8)
        colours = np.tile(plain, (*shape, 1))
        counts = np.ones(len(tasks), dtype=np.int64)
        for index, task in enumerate(tasks):
            found = _different_forms(task, augmentations)
            counts[index] += len(found[0])
            turns[index, 1 : counts[index]] = found[0]
            colours[index, 1 : counts[index]] = found[1]
        return Forms(turns, colours, counts)

    @property
    def identifiers(self) -> int:
        """Puzzle identifiers, the blank one (0) included."""
        return 1 + self.turns.size

    def identifier(
        self, task: NDArray[np.int64], form: NDArray[np.int64]
    ) -> NDArray[np.int64]:
        """The identifiers of forms; those of the tasks as they are come first."""
        return 1 + form * len(self.turns) + task


def _different_forms(
    task: Task, count: int
) -> tuple[NDArray[np.uint8], NDArray[np.uint8]]:
    """Up to `count` turns and colourings that change the task, all different."""
    seed = int.from_bytes(hashlib.sha256(task.name.encode()).digest()[:8], "little")
    # Five draws for each, as in the reference: a task of few colours repeats itself.
    draws = np.random.Generator(np.random.Philox(seed)).random((5 * count, COLOURS))
    turns = (draws[:, 0] * 8).astype(np.uint8)
    renamed = draws[:, 1:].argsort(axis=1).astype(np.uint8) + 1
    colours = np.concatenate([np.zeros_like(renamed[:, :1]), renamed], axis=1)
    grids = [grid for pair in task.train for grid in pair] + [g for g, _ in task.test]
    used = np.unique(np.concatenate([grid.ravel() for grid in grids]))
    shown = np.concatenate([turns[:, None], colours[:, used]], axis=1)
    own = np.concatenate([[0], used]).astype(np.uint8)
    _, first = np.unique(np.vstack([own, shown]), axis=0, return_index=True)
    kept = np.sort(first[first > 0])[:count] - 1
    return turns[kept], colours[kept]


@dataclass(frozen=True)
class ArcStore:
    """Pairs to train on.

    Attributes:
        inputs: N grids; `outputs` alike.
        task: [N] which task a pair is of.
        forms: of all tasks, those without a pair here included.
    """

    inputs: Grids
    outputs: Grids
    task: NDArray[np.int64]
    forms: Forms

    vocab_size = VOCABULARY
    seq_length = CELLS
    draws = 4

    def __len__(self) -> int:
        return len(self.task)

    @property
    def num_puzzles(self) -> int:
        """Puzzle identifiers."""
        return self.forms.identifiers

    @property
    def fingerprint(self) -> str:
        """Names the content."""
        digest = hashlib.sha256(self.task.tobytes())
        for grids in (self.inputs, self.outputs):
            digest.update(grids.cells.tobytes() + grids.sizes.tobytes())
        digest.update(self.forms.turns.tobytes() + self.forms.colours.tobytes())
        return digest.hexdigest()

    def rows(
        self, chosen: NDArray[np.int64], uniforms: Tensor
    ) -> tuple[Tensor, Tensor, Tensor]:
        """Pairs in drawn forms and places.

        The reference moves all pairs of a form but one; here a pair stays in the
        corner with the same chance.

        Args:
            chosen: [B] which; `EMPTY` gives a row without labels.
            uniforms: [B, `draws`] numbers in [0, 1).

        Returns:
            Inputs and labels [B, 900] and identifiers [B], all int64.
        """
        pairs = np.maximum(chosen, 0)
        task, draws = self.task[pairs], uniforms.double().numpy()
        form = _drawn(draws[:, 0], self.forms.counts[task])
        turns, colours = self.forms.turns[task, form], self.forms.colours[task, form]
        sizes = np.maximum(
            self.inputs.sizes_turned(pairs, turns),
            self.outputs.sizes_turned(pairs, turns),
        )
        moved = _drawn(draws[:, 1], np.bincount(self.task)[task]) > 0
        corners = _drawn(draws[:, 2:4], LARGEST + 1 - sizes) * moved[:, None]
        inputs, labels = (
            torch.from_numpy(grids.tokens(pairs, turns, colours, corners)).long()
            for grids in (self.inputs, self.outputs)
        )
        identifiers = torch.from_numpy(self.forms.identifier(task, form))
        return _blanked(inputs, labels, identifiers, chosen)


@dataclass(frozen=True)
class ArcTests:
    """Test inputs to be answered, each in some forms, whose answers vote.

    Attributes:
        inputs: N grids; `outputs` alike, which nothing is trained on.
        task: [N] which task a test is of.
        forms: of all tasks.
        votes: forms in which a test is asked.
    """

    inputs: Grids
    outputs: Grids
    task: NDArray[np.int64]
    forms: Forms
    votes: int

    vocab_size = VOCABULARY
    seq_length = CELLS

    def __len__(self) -> int:
        return len(self.order)

    @cached_property
    def order(self) -> NDArray[np.int64]:
        """[rows, 2] test and form: shuffled tests, the forms of one together."""
        name = hashlib.sha256(self.inputs.cells.tobytes()).hexdigest()
        votes = np.minimum(self.votes, self.forms.counts[self.task])
        return np.array(
            [
                (test, form)
                for test in permutation(len(self.task), 0, 0, name)
                for form in range(votes[test])
            ],
            dtype=np.int64,
        )

    def asked(self, chosen: NDArray[np.int64]) -> tuple[Tensor, Tensor, Tensor]:
        """Rows [B] of `order`, in the corner; see `ArcStore.rows` for the rest."""
        test, form = self.order[np.maximum(chosen, 0)].T
        task = self.task[test]
        turns, colours = self.forms.turns[task, form], self.forms.colours[task, form]
        corners = np.zeros((len(chosen), 2), dtype=np.int64)
        inputs, labels = (
            torch.from_numpy(grids.tokens(test, turns, colours, corners)).long()
            for grids in (self.inputs, self.outputs)
        )
        identifiers = torch.from_numpy(self.forms.identifier(task, form))
        return _blanked(inputs, labels, identifiers, chosen)

    def score(
        self, predicted: NDArray[np.uint8], q_halt: NDArray[np.float32]
    ) -> dict[str, float]:
        """Shares of the tests that were answered, with one and with two attempts.

        Every row's grid is turned and recoloured back; equal grids are counted, ties
        go to the higher mean of sigmoid(q_halt), as in the reference's evaluation.

        Args:
            predicted: [R, 900] tokens for the first R rows of `order`.
            q_halt: [R] what the halting head said.

        Returns:
            "pass_at_1" and "pass_at_2".
        """
        ballots: dict[int, dict[bytes, list[float]]] = {}
        belief = 1.0 / (1.0 + np.exp(-q_halt.astype(np.float64)))
        for (test, form), row, q in zip(self.order, predicted, belief, strict=False):
            answer = self._answer(int(test), int(form), row)
            ballots.setdefault(int(test), {}).setdefault(answer, []).append(float(q))
        right = np.zeros(ATTEMPTS)
        for test, votes in ballots.items():
            ranked = sorted(
                votes, key=lambda a: (len(votes[a]), np.mean(votes[a])), reverse=True
            )
            wanted = _key(self.outputs[test])
            right += [wanted in ranked[: n + 1] for n in range(ATTEMPTS)]
        shares = right / max(len(ballots), 1)
        return {f"pass_at_{n + 1}": float(shares[n]) for n in range(ATTEMPTS)}

    def _answer(self, test: int, form: int, row: NDArray[np.uint8]) -> bytes:
        """A predicted row as the grid it means for the test as it is."""
        task = self.task[test]
        grid = turned_back(grid_of(row), int(self.forms.turns[task, form]))
        return _key(np.argsort(self.forms.colours[task, form]).astype(np.uint8)[grid])


def _key(grid: NDArray[np.uint8]) -> bytes:
    return bytes(grid.shape) + np.ascontiguousarray(grid).tobytes()


def _drawn(uniforms: NDArray[Any], counts: NDArray[np.int64]) -> NDArray[np.int64]:
    """Whole numbers below `counts`, each as likely as the others."""
    return np.minimum((uniforms * counts).astype(np.int64), counts - 1)


def _blanked(
    inputs: Tensor, labels: Tensor, identifiers: Tensor, chosen: NDArray[np.int64]
) -> tuple[Tensor, Tensor, Tensor]:
    """Nothing is learned outside the grid, nor anything in rows that only fill up."""
    empty = torch.from_numpy(chosen == EMPTY)
    labels[(labels == 0) | empty[:, None]] = IGNORE
    identifiers[empty] = 0
    return inputs, labels, identifiers


def prepare_arc(
    train_data: Sequence[str],
    eval_data: Sequence[str] = (),
    *,
    held_out: float = 0.0,
    augmentations: int = 1000,
    votes: int = 1,
) -> tuple[ArcStore, ArcTests | None, dict[str, Any]]:
    """Read the tasks and hold the test pairs of some out.

    With `eval_data`, its tasks are asked about; without, a share of `train_data`. All
    pairs of the other tasks are trained on, except those that are a held-out test pair
    in another turn or naming of colours.

    Args:
        train_data: files, folders, patterns; `eval_data` alike.
        held_out: share of the tasks that is asked about without `eval_data`.
        augmentations: changed forms of a task, beside its own.
        votes: forms in which a test is asked.

    Returns:
        What to train on, what is asked (None for nothing), and counts.

    Raises:
        LuminaError: see `read_tasks`; E102 where no test to be asked has an output.
    """
    tasks = read_tasks(find_files(train_data, FILES))
    if eval_data:
        asked = read_tasks(find_files(eval_data, FILES))
        twice = {task.content() for task in asked}
        tasks = [task for task in tasks if task.content() not in twice]
    else:
        order = permutation(len(tasks), 0, 0, "tasks held out")
        count = min(round(held_out * len(tasks)), len(tasks) - 1)
        chosen = set(order[:count].tolist())
        asked = [task for i, task in enumerate(tasks) if i in chosen]
        tasks = [task for i, task in enumerate(tasks) if i not in chosen]
    every = tasks + asked
    forms = Forms.of(every, augmentations)
    tests = [(i, p) for i, t in enumerate(asked, len(tasks)) for p in t.answered()]
    if asked and not tests:
        raise LuminaError(
            "E102",
            "no test pair of the tasks to be asked has an output",
            "put NAME_solutions.json beside NAME_challenges.json",
        )
    secret = _Secret([pair for _, pair in tests])
    pairs = [
        (i, pair)
        for i, task in enumerate(every)
        for pair in (
            task.train
            if i >= len(tasks)
            else [p for p in task.train + task.answered() if not secret.holds(p)]
        )
    ]
    store = ArcStore(*_grids(pairs), forms)
    evaluation = ArcTests(*_grids(tests), forms, votes) if tests else None
    stats = {
        "documents": len(every),
        "conversations": 0,
        "skipped": 0,
        "train_tokens": len(pairs) * CELLS,
        "eval_tokens": len(tests) * CELLS,
        "puzzles_left_out": secret.found,
    }
    return store, evaluation, stats


class _Secret:
    """Recognises held-out pairs in any turn and naming of colours."""

    def __init__(self, pairs: list[Any]) -> None:
        self._rough = {self._sizes(pair) for pair in pairs}
        self._exact = {disguise_free(pair) for pair in pairs}
        self.found = 0

    @staticmethod
    def _sizes(pair: Any) -> tuple[Any, ...]:
        """The same for every form of a pair, and quick."""
        colours = [sorted(np.bincount(g.ravel()).tolist()) for g in pair]
        counts = [tuple(n for n in c if n) for c in colours]
        return (*(tuple(sorted(g.shape)) for g in pair), *counts)

    def holds(self, pair: Any) -> bool:
        """Whether a pair is one of them."""
        held = self._sizes(pair) in self._rough and disguise_free(pair) in self._exact
        self.found += held
        return held


def _grids(pairs: list[Any]) -> tuple[Grids, Grids, NDArray[np.int64]]:
    """Inputs, outputs and tasks of (task, (input, output))."""
    tasks = np.array([task for task, _ in pairs], dtype=np.int64)
    return (
        Grids.of([given for _, (given, _) in pairs]),
        Grids.of([out for _, (_, out) in pairs]),
        tasks,
    )
