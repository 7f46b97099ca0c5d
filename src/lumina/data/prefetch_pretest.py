"""Whether batches can be made ahead on this machine: same data, no slower, no leak.

What can go wrong with threads that read ahead is that they change the order of the
rows, hold more batches than they were allowed to, or contend with the step for the
interpreter's lock or for memory, so that the run is slower than without them.
"""

from __future__ import annotations

import time
from collections.abc import Sequence
from typing import Any

import numpy as np
import torch

from lumina.batch import Batch
from lumina.data.order import RowOrder, Shuffle, Taken
from lumina.data.prefetch import Prefetcher
from lumina.data.stream import Read, RowStream

STEPS, ROWS, LENGTH = 24, 4, 256
DEPTH = 3
ROUNDS = 5
"""Each number of threads is timed so often, in turn; the fastest counts."""

SLOWER = 1.15
"""How many times as long steps may take with threads as without any."""


class _Rows(RowStream):
    """Rows of random tokens that take a moment to make, as those of a store do."""

    def __init__(self) -> None:
        self.fingerprint = "prefetch pretest"
        rows = Shuffle(1000, seed=7, fingerprint=self.fingerprint)
        self.order = RowOrder(rows, global_batch_size=ROWS, epochs=None)
        self.made_steps = 0

    def read(self, taken: Taken, mine: Sequence[slice]) -> Read:
        """Tokens that the numbers of the rows decide, sorted so that it takes time."""
        self.made_steps += 1
        rows = taken.rows(ROWS)
        batches = [_batch(rows[part]) for part in mine]
        return Read(batches, ROWS * LENGTH, ROWS * LENGTH)


def _batch(rows: Any) -> Batch:
    drawn = [np.random.default_rng(int(row)).integers(0, 2**15, 2**13) for row in rows]
    kept = np.stack([np.sort(one)[:LENGTH] for one in drawn])
    ids = torch.from_numpy(kept.astype(np.int64))
    places = torch.arange(LENGTH).expand(len(rows), LENGTH)
    starts = torch.arange(0, (len(rows) + 1) * LENGTH, LENGTH, dtype=torch.int32)
    return Batch(ids, ids, places, torch.zeros_like(ids), starts, LENGTH, True)


def problem(machine: Any) -> str | None:
    """Why batches cannot be made ahead here, or None.

    Args:
        machine: this one.
    """
    expected = _numbers(0)
    for threads in (1, 3):
        if _numbers(threads) != expected:
            return f"{threads} threads give other batches than none"
    held = _most_ahead()
    if held > DEPTH + 2:
        return f"{held} steps were made ahead, and {DEPTH} were allowed"
    device = torch.device(machine.device)
    times: dict[int, list[float]] = {0: [], 1: []}
    for _ in range(ROUNDS):
        for threads, found in times.items():
            found.append(_seconds(threads, device))
    ratio = min(times[1]) / min(times[0])
    if ratio > SLOWER:
        return f"steps take {ratio:.2f} times as long with a thread as without one"
    return None


def _feed(stream: RowStream, threads: int) -> Prefetcher:
    return Prefetcher(
        stream, stream.start, micro_batch_size=ROWS, depth=DEPTH, threads=threads
    )


def _numbers(threads: int) -> list[int]:
    """A sum over each step's tokens by place: the same only for the same batches."""
    stream = _Rows()
    feed, weights = _feed(stream, threads), torch.arange(ROWS * LENGTH)
    try:
        found = []
        for _ in range(STEPS):
            step, _ = feed.next()
            assert step is not None
            ids = step.micro_batches[0].input_ids.flatten()
            found.append(int((ids * weights).sum()))
        return found
    finally:
        feed.close()


def _most_ahead() -> int:
    """Steps that were made and not taken, once the thread has had time."""
    stream = _Rows()
    feed = _feed(stream, 1)
    try:
        feed.next()
        before = -1
        while stream.made_steps != before:
            before = stream.made_steps
            time.sleep(0.1)
        return stream.made_steps - 1
    finally:
        feed.close()


def _seconds(threads: int, device: torch.device) -> float:
    """What steps take whose device works for about as long as a batch takes."""
    feed = _feed(_Rows(), threads)
    matrix = torch.randn(256, 256, device=device)
    try:
        feed.next()
        began = time.perf_counter()
        for _ in range(STEPS // 2):
            feed.next()
            for _ in range(4):
                matrix = torch.tanh(matrix @ matrix)
            if device.type == "cuda":
                torch.cuda.synchronize(device)
        return time.perf_counter() - began
    finally:
        feed.close()
