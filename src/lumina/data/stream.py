"""A token store -> the batches of a run, in an order that only its seed decides.

The rows of an epoch are shuffled by (seed, epoch, content of the store). A step takes
the next `global_batch_size` rows, whatever the number of ranks and the size of
micro-batches; ranks then divide them. So a run can stop anywhere and go on elsewhere.
"""

from __future__ import annotations

import functools
import hashlib
import queue
import threading
import time
from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any, Protocol

import numpy as np
from numpy.typing import NDArray

from lumina.data.batches import BatchMaker
from lumina.data.packing import pack
from lumina.data.store import TokenStore
from lumina.errors import LuminaError
from lumina.model.interface import Batch

EMPTY = -1
"""The number of a row that only fills up a batch."""


@dataclass(frozen=True)
class Cursor:
    """How far the data has been read: `row` rows of epoch `epoch` are done."""

    epoch: int = 0
    row: int = 0

    def to_dict(self) -> dict[str, int]:
        """Plain JSON values."""
        return {"epoch": self.epoch, "row": self.row}

    @staticmethod
    def from_dict(values: dict[str, Any]) -> Cursor:
        """The inverse of `to_dict`."""
        return Cursor(int(values["epoch"]), int(values["row"]))


@dataclass(frozen=True)
class StepBatches:
    """The data of one optimizer step, for one rank.

    Attributes:
        micro_batches: this rank's share, in the order of accumulation.
        loss_tokens: labels that count, over all ranks and micro-batches.
        tokens: positions that are not padding, over all ranks and micro-batches.
        cursor: where the next step begins.
        epoch: passes over the data completed after this step, with its fraction.
        row_ids: (epoch, row of the packing) of every row of the global batch.
    """

    micro_batches: list[Batch]
    loss_tokens: int
    tokens: int
    cursor: Cursor
    epoch: float
    row_ids: list[tuple[int, int]]


class BatchStream:
    """Cuts a shuffled store into steps.

    Args:
        store: the tokens.
        seq_length: positions of a row.
        global_batch_size: rows of a step, over all ranks.
        seed: with the epoch and the store's content, decides the order.
        epochs: passes over the data, perhaps fractional; None: without end.
    """

    def __init__(
        self,
        store: TokenStore,
        *,
        seq_length: int,
        global_batch_size: int,
        seed: int,
        epochs: float | None = None,
    ) -> None:
        self.store = store
        self.global_batch_size = global_batch_size
        self.seed = seed
        self.packing = pack(store, seq_length)
        self.rows_per_epoch = len(self.packing)
        if not self.rows_per_epoch:
            raise LuminaError("E105", "the data has no token to learn", "add data")
        self.total_rows = (
            None if epochs is None else max(1, round(epochs * self.rows_per_epoch))
        )
        self._maker = BatchMaker(store, self.packing)
        self._orders: dict[int, NDArray[np.int64]] = {}

    @property
    def utilisation(self) -> float:
        """Share of positions that hold a token."""
        return self.packing.utilisation

    @property
    def steps(self) -> int | None:
        """Steps until the data ends, or None when it does not."""
        if self.total_rows is None:
            return None
        return -(-self.total_rows // self.global_batch_size)

    def step(
        self,
        cursor: Cursor,
        *,
        rank: int = 0,
        world_size: int = 1,
        micro_batch_size: int,
    ) -> StepBatches | None:
        """The batches of the step that begins at `cursor`; None at the end.

        The last step of a limited run is filled up with empty rows.
        """
        share = rows_of_rank(self.global_batch_size, world_size, micro_batch_size)
        done = cursor.epoch * self.rows_per_epoch + cursor.row
        stop = done + self.global_batch_size
        if self.total_rows is not None:
            if done >= self.total_rows:
                return None
            stop = min(stop, self.total_rows)
        row_ids = self._row_ids(done, stop)
        rows = np.full(self.global_batch_size, EMPTY, dtype=np.int64)
        rows[: len(row_ids)] = [row for _, row in row_ids]
        tokens, loss_tokens = self._maker.count(rows)
        mine = rows[rank * share : (rank + 1) * share]
        return StepBatches(
            micro_batches=[
                self._maker.batch(mine[i : i + micro_batch_size])
                for i in range(0, share, micro_batch_size)
            ],
            loss_tokens=loss_tokens,
            tokens=tokens,
            cursor=Cursor(*divmod(stop, self.rows_per_epoch)),
            epoch=stop / self.rows_per_epoch,
            row_ids=row_ids,
        )

    def _row_ids(self, begin: int, end: int) -> list[tuple[int, int]]:
        """(epoch, row) of the rows begin .. end - 1 of the run."""
        ids: list[tuple[int, int]] = []
        while begin < end:
            epoch, row = divmod(begin, self.rows_per_epoch)
            rows = self._order(epoch)[row : row + end - begin]
            ids += [(epoch, r) for r in rows.tolist()]
            begin += len(rows)
        return ids

    def _order(self, epoch: int) -> NDArray[np.int64]:
        """The permutation of an epoch; the two last used are kept."""
        if epoch not in self._orders:
            for old in [e for e in self._orders if abs(e - epoch) > 1]:
                del self._orders[old]
            self._orders[epoch] = permutation(
                self.rows_per_epoch, self.seed, epoch, self.store.fingerprint
            )
        return self._orders[epoch]


def permutation(
    count: int, seed: int, epoch: int, fingerprint: str
) -> NDArray[np.int64]:
    """The order of `count` rows: a pure function of its arguments."""
    name = f"{seed}:{epoch}:{fingerprint}".encode()
    key = int.from_bytes(hashlib.sha256(name).digest()[:16], "little")
    return np.random.Generator(np.random.Philox(key=key)).permutation(count)


def eval_batches(
    store: TokenStore,
    seq_length: int,
    batch_size: int,
    limit: int | None = None,
    *,
    rank: int = 0,
    world_size: int = 1,
) -> Iterator[Batch]:
    """The held-out data in batches, always the same ones in the same order.

    The order is shuffled once and for all, so that a limited evaluation is a fair
    sample. Ranks take turns; each gets the same number of batches (an empty one where
    there is none left), since sharded models run in step.

    Args:
        store: the held-out tokens.
        seq_length: positions of a row.
        batch_size: rows of a batch.
        limit: the most batches, over all ranks; None: all.
        rank: whose share to yield.
        world_size: the number of ranks.
    """
    maker, order = _held_out(store, seq_length)
    batches = -(-len(order) // batch_size)
    if limit is not None:
        batches = min(batches, limit)
    for first in range(0, batches, world_size):
        rows = np.full(batch_size, EMPTY, dtype=np.int64)
        index = first + rank
        if index < batches:
            chosen = order[index * batch_size : (index + 1) * batch_size]
            rows[: len(chosen)] = chosen
        yield maker.batch(rows)


@functools.lru_cache(maxsize=4)  # an evaluation comes back every few steps
def _held_out(
    store: TokenStore, seq_length: int
) -> tuple[BatchMaker, NDArray[np.int64]]:
    packing = pack(store, seq_length)
    order = permutation(len(packing), 0, 0, store.fingerprint)
    return BatchMaker(store, packing), order


def rows_of_rank(global_batch_size: int, world_size: int, micro_batch_size: int) -> int:
    """Rows of one rank's part of a step."""
    if global_batch_size % (world_size * micro_batch_size):
        raise LuminaError(
            "E005",
            f"a global batch of {global_batch_size} rows cannot be divided over "
            f"{world_size} ranks in micro-batches of {micro_batch_size}",
            "choose a multiple of ranks x micro-batch",
        )
    return global_batch_size // world_size


class Stream(Protocol):
    """Whatever makes the batches of a step, as `BatchStream` does."""

    def step(
        self, cursor: Cursor, *, rank: int, world_size: int, micro_batch_size: int
    ) -> StepBatches | None:
        """The batches of the step that begins at `cursor`; None at the end."""


class Prefetcher:
    """Makes the next steps in a background thread.

    Args:
        stream: where steps come from.
        cursor: the first step's.
        rank: whose share to make.
        world_size: the number of ranks.
        micro_batch_size: rows of a forward.
        depth: steps made ahead.
        pin: put batches into page-locked memory, for copies to a GPU.
    """

    def __init__(
        self,
        stream: Stream,
        cursor: Cursor,
        *,
        rank: int = 0,
        world_size: int = 1,
        micro_batch_size: int,
        depth: int = 2,
        pin: bool = False,
    ) -> None:
        self._arguments = {
            "rank": rank,
            "world_size": world_size,
            "micro_batch_size": micro_batch_size,
        }
        self._stream = stream
        self._pin = pin
        self._made: queue.Queue[StepBatches | BaseException | None] = queue.Queue(depth)
        self._stop = threading.Event()
        self._ended: StepBatches | BaseException | None = None
        self._over = False
        self._thread = threading.Thread(
            target=self._run, args=(cursor,), name="lumina-data", daemon=True
        )
        self._thread.start()

    def next(self) -> tuple[StepBatches | None, float]:
        """(the next step or None at the end, seconds spent waiting for it)."""
        began = time.perf_counter()
        if not self._over:
            item = self._made.get()
            if not isinstance(item, StepBatches):
                self._over, self._ended = True, item
            else:
                return item, time.perf_counter() - began
        if isinstance(self._ended, BaseException):
            raise self._ended
        return None, time.perf_counter() - began

    def close(self) -> None:
        """Stop the thread; what it made ahead is thrown away."""
        self._stop.set()
        while self._thread.is_alive():
            try:
                self._made.get_nowait()
            except queue.Empty:
                self._thread.join(0.01)
        self._over, self._ended = True, None

    def _run(self, cursor: Cursor) -> None:
        try:
            while not self._stop.is_set():
                made = self._stream.step(cursor, **self._arguments)
                if made is None:
                    break
                cursor = made.cursor
                if self._pin:
                    made.micro_batches[:] = [b.pin_memory() for b in made.micro_batches]
                self._made.put(made)
            self._made.put(None)
        except BaseException as error:  # handed to the one who waits
            self._made.put(error)
