"""Puzzles of any kind: rows of one length with their solutions, and steps of them."""

from __future__ import annotations

import hashlib
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import replace
from typing import TYPE_CHECKING, Any, Protocol

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from lumina.batch import Batch
from lumina.data.files import Wanted, count_left_out, tell_left_out
from lumina.data.kind import Data, Request, Rows, Score, Share
from lumina.data.order import EMPTY, RowOrder, Shuffle, Taken
from lumina.data.stream import Read, RowStream
from lumina.errors import LuminaError

if TYPE_CHECKING:
    from lumina.config import Config

EXPLORING = 2
"""Uniform numbers of a row that are handed to the model."""

DEFAULT_HELD_OUT = 0.05

PuzzleRows = tuple[Tensor, Tensor, Tensor | None]
"""Inputs and labels [B, S] and puzzle identifiers [B] or None, all int64."""


class PuzzlesToLearn(Protocol):
    """Puzzles with solutions, which may be changed into others of the same kind.

    Attributes:
        vocab_size: one more than the greatest token.
        seq_length: positions of a row.
        draws: uniform numbers that decide how a puzzle is changed.
    """

    @property
    def vocab_size(self) -> int: ...  # noqa: D102

    @property
    def seq_length(self) -> int: ...  # noqa: D102

    @property
    def draws(self) -> int: ...  # noqa: D102

    @property
    def num_puzzles(self) -> int:
        """Puzzle identifiers."""

    @property
    def fingerprint(self) -> str:
        """Names the content."""

    def __len__(self) -> int: ...

    def rows(self, chosen: NDArray[np.int64], uniforms: Tensor) -> PuzzleRows:
        """Puzzles, each changed; `EMPTY` gives a row without labels."""


class PuzzlesToJudge(Protocol):
    """Held-out puzzles, in a fixed order."""

    def __len__(self) -> int: ...

    def asked(self, chosen: NDArray[np.int64]) -> PuzzleRows:
        """Puzzles as they are; `EMPTY` gives a row without labels."""


class PuzzleData(Data):
    """Puzzles that are ready to train on.

    Attributes:
        train: what is learned from.
        eval: held-out puzzles, or None; none is a changed form of one in `train`.
    """

    def __init__(
        self,
        train: PuzzlesToLearn,
        evaluation: PuzzlesToJudge | None,
        stats: Mapping[str, Any],
        score: Score | None = None,
    ) -> None:
        self.train = train
        self.eval = evaluation
        self.stats = stats
        self.score = score

    def rows(self, config: Config) -> Rows:
        """Puzzles are rows already."""
        return Rows(
            vocab_size=self.train.vocab_size,
            sequence=shuffled_puzzles(self.train, config.train.seed),
            held_out=len(self.eval) if self.eval else 0,
            num_puzzles=self.train.num_puzzles,
        )

    def stream(
        self,
        config: Config,
        rows: Rows,
        *,
        global_batch_size: int,
        epochs: float | None,
    ) -> PuzzleStream:
        """Batches of changed puzzles."""
        return PuzzleStream(
            self.train,
            global_batch_size=global_batch_size,
            seed=config.train.seed,
            epochs=epochs,
        )

    @property
    def holds_out(self) -> bool:
        """Whether some puzzles are held out."""
        return self.eval is not None

    def held_out(self, share: Share) -> Iterator[Batch]:
        """Batches of the held-out puzzles."""
        assert self.eval is not None
        return eval_puzzles(
            self.eval,
            share.batch_size,
            share.limit,
            rank=share.rank,
            data_ranks=share.data_ranks,
        )


def check_puzzles(request: Request, length: int, why: str, wanted: Wanted) -> None:
    """Refuse rows of another length than the puzzles', and tell of files not read.

    Args:
        request: names the files.
        length: positions of a puzzle.
        why: the reason of that length.
        wanted: the files that are read.

    Raises:
        LuminaError: E002 for another length.
    """
    config = request.config
    if config.model.seq_length != length:
        raise LuminaError(
            "E002",
            f"{why}, seq_length is {config.model.seq_length}",
            f"use --seq-length {length}, or for text --hrm-mode language_model",
        )
    named = [*config.data.train_data, *config.data.eval_data]
    tell_left_out(count_left_out(named, wanted), request.on_event, wanted)


def held_out_share(config: Config) -> float:
    """The share of the puzzles that is held out where no held-out files are named."""
    share = config.data.eval_fraction
    return DEFAULT_HELD_OUT if share is None else share


def shuffled_puzzles(store: PuzzlesToLearn, seed: int) -> Shuffle:
    """Every puzzle once an epoch, each epoch in an order of its own."""
    return Shuffle(len(store), seed=seed, fingerprint=store.fingerprint)


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

    def __init__(
        self,
        store: PuzzlesToLearn,
        *,
        global_batch_size: int,
        seed: int,
        epochs: float | None = None,
    ) -> None:
        self.store = store
        self.fingerprint = fingerprint = store.fingerprint
        self.order = RowOrder(
            shuffled_puzzles(store, seed),
            global_batch_size=global_batch_size,
            epochs=epochs,
        )
        digest = hashlib.sha256(f"{seed}:{fingerprint}".encode()).digest()
        self._key = int.from_bytes(digest[:16], "little")
        self._drawn = -(-(EXPLORING + store.draws) // 4) * 4  # Philox makes four

    def read(self, taken: Taken, mine: Sequence[slice]) -> Read:
        """Changed puzzles."""
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
    store: PuzzlesToJudge,
    batch_size: int,
    limit: int,
    *,
    rank: int = 0,
    data_ranks: int = 1,
) -> Iterator[Batch]:
    """Held-out puzzles as they are, always the same ones; ranks take turns.

    Args:
        store: the held-out puzzles.
        batch_size: rows of a batch.
        limit: the most batches, over all ranks.
    """
    batches = min(-(-len(store) // batch_size), limit)
    for first in range(0, batches, data_ranks):
        rows = np.full(batch_size, EMPTY, dtype=np.int64)
        index = first + rank
        if index < batches:
            last = min((index + 1) * batch_size, len(store))
            chosen = np.arange(index * batch_size, last)
            rows[: len(chosen)] = chosen
        yield _batch(store.asked(rows))


def _batch(rows: PuzzleRows) -> Batch:
    inputs, labels, identifiers = rows
    return replace(Batch.from_rows(inputs, labels), task_ids=identifiers)


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
