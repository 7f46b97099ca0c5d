"""A token store -> the batches of a run, in an order that only its seed decides.

Which rows a step takes is the business of `lumina.data.order`, whatever the number of
ranks and the size of micro-batches; ranks then divide them.
"""

from __future__ import annotations

import functools
import queue
import threading
import time
from abc import ABC, abstractmethod
from collections.abc import Iterator, Mapping, Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from dataclasses import dataclass, field, replace
from typing import Any, Protocol

import numpy as np
from numpy.typing import NDArray

from lumina.batch import Batch
from lumina.data.batches import BatchMaker
from lumina.data.order import (
    EMPTY,
    Cursor,
    Linear,
    Numbered,
    RowOrder,
    Shuffle,
    Taken,
    permutation,
)
from lumina.data.packing import Packing, pack, pack_in_order
from lumina.data.store import TokenStore
from lumina.errors import LuminaError
from lumina.threads import start


@dataclass(frozen=True)
class StepBatches:
    """The data of one optimizer step, for one rank.

    Attributes:
        micro_batches: this rank's share, in the order of accumulation.
        loss_tokens: labels that count, over all ranks and micro-batches.
        tokens: positions that are not padding, over all ranks and micro-batches.
        cursor: where the next step begins.
        epoch: passes over the data completed after this step, with its fraction; None
            where the data has no known number of rows.
        row_ids: names of the rows of the global batch, such as (epoch, row).
        task_loss_tokens: where there are several tasks, `loss_tokens` of each, or what
            these weigh.
        facts: further numbers about the step that the data knows, for the metrics.
        loss_weight: what the labels weigh together, over all ranks and micro-batches;
            None where each of them weighs 1.
        events: what happened while the rows were read, as arguments of an event.
    """

    micro_batches: list[Batch]
    loss_tokens: int
    tokens: int
    cursor: Cursor
    epoch: float | None
    row_ids: list[tuple[int, int]]
    task_loss_tokens: tuple[float, ...] = ()
    facts: Mapping[str, float] = field(default_factory=dict)
    events: Sequence[Mapping[str, Any]] = ()
    loss_weight: float | None = None

    @property
    def loss_divisor(self) -> float:
        """What makes a mean of the sum of the losses: the number of labels, or their
        weight; 1 where there is none."""
        if not self.loss_tokens:
            return 1
        return self.loss_tokens if self.loss_weight is None else self.loss_weight


@dataclass(frozen=True)
class Read:
    """What the rows of a step hold; fields as in `StepBatches`."""

    micro_batches: list[Batch]
    loss_tokens: int
    tokens: int
    task_loss_tokens: tuple[float, ...] = ()
    loss_weight: float | None = None


class RowStream(ABC):
    """Cuts ordered rows into steps; how rows are read is left to each kind of data.

    Attributes:
        order: which rows come when.
        fingerprint: names the content of the data, or its source where the content is
            not known. A run goes on only with data of the same fingerprint.
        utilisation: share of positions that hold a token; None where not known.
    """

    order: RowOrder
    fingerprint: str
    utilisation: float | None = None

    @property
    def start(self) -> Cursor:
        """Where the first step begins."""
        return self.order.start

    def reweighted(self, cursor: Cursor, weights: Mapping[str, float] | None) -> Cursor:
        """The cursor from which the rows come in other shares.

        Args:
            cursor: the present one.
            weights: of each source of a mixture; None: as the settings say. Other data
                has no shares, and its cursor stays.
        """
        return cursor

    @property
    def rows_without_labels(self) -> tuple[int, int]:
        """How many rows have no label to learn from, of how many that were counted."""
        return 0, self.order.rows_per_epoch or 0

    def step(
        self,
        cursor: Cursor,
        *,
        rank: int = 0,
        data_ranks: int = 1,
        micro_batch_size: int,
    ) -> StepBatches | None:
        """The batches of the step that begins at `cursor`; None at the end.

        The last step of a limited run is filled up with empty rows.
        """
        size = self.order.global_batch_size
        mine = slices_of_rank(size, rank, data_ranks, micro_batch_size)
        taken = self.order.take(cursor)
        return None if taken is None else self.made(taken, mine)

    def made(self, taken: Taken, mine: Sequence[slice]) -> StepBatches:
        """The batches of rows that were taken; several threads may call it at once.

        Args:
            taken: the rows of a step.
            mine: those of this rank's micro-batches.
        """
        read = self.read(taken, mine)
        return StepBatches(
            micro_batches=read.micro_batches,
            loss_tokens=read.loss_tokens,
            tokens=read.tokens,
            cursor=taken.cursor,
            epoch=taken.epoch,
            row_ids=taken.row_ids,
            task_loss_tokens=read.task_loss_tokens,
            facts={**taken.facts, **_weight_fact(read.loss_weight)},
            loss_weight=read.loss_weight,
            events=taken.events,
        )

    @abstractmethod
    def read(self, taken: Taken, mine: Sequence[slice]) -> Read:
        """The rows `mine` of the global batch, and what the whole of it counts."""


class BatchStream(RowStream):
    """Cuts a shuffled store into steps.

    Args:
        store: the tokens.
        seq_length: positions of a row.
        global_batch_size: rows of a step, over all ranks.
        seed: with the epoch and the store's content, decides the order.
        epochs: passes over the data, perhaps fractional; None: without end.
        in_order: documents stay in their order; None: they are shuffled.
        sequence: the rows, where neither order is wanted.
    """

    def __init__(
        self,
        store: TokenStore,
        *,
        seq_length: int,
        global_batch_size: int,
        seed: int,
        epochs: float | None = None,
        in_order: InOrder | None = None,
        sequence: Numbered | None = None,
    ) -> None:
        self.store = store
        self.packing = packed(store, seq_length, in_order)
        if not len(self.packing):
            raise LuminaError("E105", "the data has no token to learn", "add data")
        self.order = RowOrder(
            sequence or sequence_of(store, seq_length, seed, in_order),
            global_batch_size=global_batch_size,
            epochs=epochs,
        )
        self._maker = BatchMaker(store, self.packing, weighted=store.weighted)
        self.fingerprint = store.fingerprint
        self.utilisation = self.packing.utilisation

    @property
    def rows_without_labels(self) -> tuple[int, int]:
        """How many rows have no label to learn from, of how many in all."""
        return self._maker.rows_without_labels, len(self.packing)

    def read(self, taken: Taken, mine: Sequence[slice]) -> Read:
        """Packed rows of the store."""
        rows = taken.rows(self.order.global_batch_size)
        tokens, loss_tokens = self._maker.count(rows)
        batches = [self._maker.batch(rows[part]) for part in mine]
        weight = self._maker.weight(rows)
        return Read(batches, loss_tokens, tokens, loss_weight=weight)


def _weight_fact(weight: float | None) -> dict[str, float]:
    """What the labels of a step weigh, for the metrics of a weighted run."""
    return {} if weight is None else {"loss_weight": weight}


def shuffled(store: TokenStore, seq_length: int, seed: int) -> Shuffle:
    """Every packed row of a store once an epoch, each epoch in an order of its own."""
    rows = len(pack(store, seq_length))
    return Shuffle(rows, seed=seed, fingerprint=store.fingerprint)


@dataclass(frozen=True)
class InOrder:
    """Documents in the order in which they stand.

    Attributes:
        first: documents passed over at the start of the run.
    """

    first: int = 0


def packed(store: TokenStore, seq_length: int, in_order: InOrder | None) -> Packing:
    """The rows of a store, numbered."""
    return (
        pack(store, seq_length)
        if in_order is None
        else pack_in_order(store, seq_length)
    )


def sequence_of(
    store: TokenStore, seq_length: int, seed: int, in_order: InOrder | None
) -> Numbered:
    """Every row of a store once an epoch.

    Args:
        store: the tokens.
        seq_length: positions of a row.
        seed: decides the order of rows that are shuffled.
        in_order: documents stay in their order; None: rows are shuffled.

    Raises:
        LuminaError: E005 where all documents would be passed over.
    """
    if in_order is None:
        return shuffled(store, seq_length, seed)
    return linear(store, pack_in_order(store, seq_length), in_order)


def linear(store: TokenStore, rows: Packing, in_order: InOrder) -> Linear:
    """Rows of a store that keep its order, from a document on.

    Raises:
        LuminaError: E005 where all documents would be passed over.
    """
    if in_order.first >= len(store):
        raise LuminaError(
            "E005",
            f"dataset_start_offset {in_order.first:,} passes over all {len(store):,} "
            "documents to learn from",
            f"pass over at most {len(store) - 1:,}",
        )
    # The first chunk that begins with the document or after it, and its row.
    chunk = np.searchsorted(rows.starts, store.starts[in_order.first])
    row = int(np.searchsorted(rows.rows, chunk, side="right")) - 1
    return Linear(len(rows), first=min(row, len(rows) - 1))


def eval_batches(
    store: TokenStore,
    seq_length: int,
    batch_size: int,
    limit: int | None = None,
    *,
    rank: int = 0,
    data_ranks: int = 1,
) -> Iterator[Batch]:
    """The held-out data in batches, always the same ones in the same order.

    The order is shuffled once and for all, so that a limited evaluation is a fair
    sample. Every label weighs 1, whatever weights training uses: the perplexity is that
    of the tokens that bear loss, and compares with that of other runs. Ranks take
    turns; each gets the same number of batches (an empty one where there is none left),
    since sharded models run in step.

    Args:
        store: the held-out tokens.
        seq_length: positions of a row.
        batch_size: rows of a batch.
        limit: the most batches, over all ranks; None: all.
        rank: the rank that the share is for.
        data_ranks: ranks among which the rows are divided.
    """
    maker, order = _held_out(store, seq_length)
    batches = -(-len(order) // batch_size)
    if limit is not None:
        batches = min(batches, limit)
    for first in range(0, batches, data_ranks):
        rows = np.full(batch_size, EMPTY, dtype=np.int64)
        index = first + rank
        if index < batches:
            chosen = order[index * batch_size : (index + 1) * batch_size]
            rows[: len(chosen)] = chosen
        yield maker.batch(rows)


@functools.lru_cache(maxsize=32)  # an evaluation comes back every few steps
def _held_out(
    store: TokenStore, seq_length: int
) -> tuple[BatchMaker, NDArray[np.int64]]:
    packing = pack(store, seq_length)
    order = permutation(len(packing), 0, 0, store.fingerprint)
    return BatchMaker(store, packing), order


def slices_of_rank(
    global_batch_size: int, rank: int, data_ranks: int, micro_batch_size: int
) -> list[slice]:
    """Which rows of a step are each of a rank's micro-batches.

    Raises:
        LuminaError: E005 for rows that cannot be divided so.
    """
    if global_batch_size % (data_ranks * micro_batch_size):
        raise LuminaError(
            "E005",
            f"a global batch of {global_batch_size} rows cannot be divided over "
            f"{data_ranks} ranks in micro-batches of {micro_batch_size}",
            "choose a multiple of ranks x micro-batch",
        )
    share = global_batch_size // data_ranks
    begins = range(rank * share, (rank + 1) * share, micro_batch_size)
    return [slice(begin, begin + micro_batch_size) for begin in begins]


class Stream(Protocol):
    """Whatever makes the batches of a step, as `BatchStream` does."""

    def step(
        self, cursor: Cursor, *, rank: int, data_ranks: int, micro_batch_size: int
    ) -> StepBatches | None:
        """The batches of the step that begins at `cursor`; None at the end."""


class Prefetcher:
    """Makes the next steps in background threads, in their order.

    Which rows a step takes is decided in one thread, step after step. With several
    threads, the others read the rows of several steps at once.

    Args:
        stream: where steps come from.
        cursor: the first step's.
        rank: the rank that the batches are for.
        data_ranks: ranks among which the rows are divided.
        micro_batch_size: rows of a forward.
        depth: steps made ahead.
        threads: that make steps; 0: each is made when it is asked for.
        pin: put batches into page-locked memory, for copies to a GPU.
    """

    def __init__(
        self,
        stream: Stream,
        cursor: Cursor,
        *,
        rank: int = 0,
        data_ranks: int = 1,
        micro_batch_size: int,
        depth: int = 2,
        threads: int = 1,
        pin: bool = False,
    ) -> None:
        self._arguments = {
            "rank": rank,
            "data_ranks": data_ranks,
            "micro_batch_size": micro_batch_size,
        }
        self._stream = stream
        self._pin = pin
        self._made: queue.Queue[
            StepBatches | Future[StepBatches] | BaseException | None
        ] = queue.Queue(depth)
        self._pool = None
        if threads > 1:
            self._pool = ThreadPoolExecutor(threads, "lumina-reading")
        self._cursor = cursor
        self._stop = threading.Event()
        self._ended: StepBatches | BaseException | None = None
        self._over = False
        self._thread: threading.Thread | None = None
        self._refused = False  # the system had no room for a further thread
        self._untold: list[str] = []  # threads that the system refused, in words
        if threads:
            thread = threading.Thread(
                target=self._run, args=(cursor,), name="lumina-data", daemon=True
            )
            try:
                start(thread)
                self._thread = thread
            except RuntimeError as error:  # each step is made when it is asked for
                self._untold.append(f"batches are not made ahead: {error}")

    def next(self) -> tuple[StepBatches | None, float]:
        """(the next step or None at the end, seconds spent waiting for it)."""
        began = time.perf_counter()
        if not self._over:
            item = self._next_item()
            if not isinstance(item, StepBatches):
                self._over, self._ended = True, item
            else:
                item = self._with_untold(item)
                return item, time.perf_counter() - began
        if isinstance(self._ended, BaseException):
            raise self._ended
        return None, time.perf_counter() - began

    def _next_item(self) -> StepBatches | BaseException | None:
        """The next step, once it is made, or what ended the making."""
        if self._thread is None:
            made = self._stream.step(self._cursor, **self._arguments)
            if made is not None:
                self._cursor = made.cursor
                self._pinned(made)
            return made
        item = self._made.get()
        if not isinstance(item, Future):
            return item
        try:
            return item.result()
        except BaseException as error:  # raised where the batch is awaited
            return error

    def close(self) -> None:
        """Stop the threads; what they made ahead is thrown away."""
        self._stop.set()
        if self._pool is not None:
            self._pool.shutdown(wait=False, cancel_futures=True)
        while self._thread is not None and self._thread.is_alive():
            try:
                self._made.get_nowait()
            except queue.Empty:
                self._thread.join(0.01)
        self._over, self._ended = True, None

    def _with_untold(self, made: StepBatches) -> StepBatches:
        """The step, with events about threads that the system refused."""
        if not self._untold:
            return made
        events = list(made.events)
        while self._untold:
            events.append(
                {
                    "kind": "fewer_reading_threads",
                    "severity": "warning",
                    "code": None,
                    "message": f"{self._untold.pop()}; the data stays the same, and "
                    "steps may wait for it",
                }
            )
        return replace(made, events=events)

    def _pinned(self, made: StepBatches) -> StepBatches:
        """The step, in page-locked memory where that is asked for."""
        if self._pin:
            made.micro_batches[:] = [b.pin_memory() for b in made.micro_batches]
        return made

    def _started(self, cursor: Cursor) -> tuple[Cursor, Future[StepBatches]] | None:
        """The cursor behind the next step, and the step that a thread makes now."""
        assert isinstance(self._stream, RowStream) and self._pool is not None
        order, stream = self._stream.order, self._stream
        mine = slices_of_rank(order.global_batch_size, **self._arguments)
        taken = order.take(cursor)
        if taken is None:
            return None

        def make() -> StepBatches:
            return self._pinned(stream.made(taken, mine))

        making: Future[StepBatches] = Future()
        if not self._refused:
            try:
                return taken.cursor, self._pool.submit(make)
            except RuntimeError as error:  # one thread less, for good
                if self._stop.is_set():
                    raise
                self._refused = True
                self._untold.append(f"batches are made in one thread: {error}")
        making.set_result(make())
        return taken.cursor, making

    def _run(self, cursor: Cursor) -> None:
        try:
            while not self._stop.is_set():
                if self._pool is not None:
                    started = self._started(cursor)
                    if started is None:
                        break
                    cursor = started[0]
                    self._made.put(started[1])
                    continue
                made = self._stream.step(cursor, **self._arguments)
                if made is None:
                    break
                cursor = made.cursor
                self._made.put(self._pinned(made))
            self._made.put(None)
        except BaseException as error:  # raised again where the batch is awaited
            self._made.put(error)
