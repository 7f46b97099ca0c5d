"""Makes the batches of the next steps in background threads, ahead of the training."""

from __future__ import annotations

import queue
import threading
import time
from concurrent.futures import Future, ThreadPoolExecutor
from dataclasses import replace
from typing import Protocol

from lumina.data.order import Cursor
from lumina.data.stream import RowStream, StepBatches, slices_of_rank
from lumina.threads import start


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
