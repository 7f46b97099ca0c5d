"""Stores of several tasks -> steps whose rows come from all of them."""

from __future__ import annotations

import math
from collections.abc import Iterator, Sequence
from dataclasses import replace

import numpy as np
import torch
from numpy.typing import NDArray

from lumina.batch import Batch
from lumina.data.batches import BatchMaker
from lumina.data.order import EMPTY, RowOrder, Sequenced, Shuffle, Taken, Turns
from lumina.data.packed_stream import eval_batches
from lumina.data.packing import pack
from lumina.data.stream import Read, RowStream
from lumina.data.tasks import TaskStores
from lumina.errors import LuminaError

Ints = NDArray[np.int64]


def task_sequence(
    store: TaskStores, *, seq_length: int, seed: int, strategy: str
) -> Sequenced:
    """A run's rows over all tasks, numbered through from the first task on.

    Args:
        store: the tasks' tokens.
        seq_length: positions of a row.
        seed: decides the order.
        strategy: "proportional": all rows shuffled together, so that a task comes as
            often as it has rows, each once an epoch. "round_robin": the tasks take
            turns; each has epochs of its own, and a smaller one begins again sooner.

    Raises:
        LuminaError: E105 for a task without a token to learn.
    """
    sizes = {name: len(pack(one, seq_length)) for name, one in store.stores.items()}
    for name, rows in sizes.items():
        if not rows:
            raise LuminaError(
                "E105", f"the data of task {name} has no token to learn", "add data"
            )
    if strategy == "proportional":
        total = sum(sizes.values())
        return Shuffle(total, seed=seed, fingerprint=store.fingerprint)
    content = {name: one.fingerprint for name, one in store.stores.items()}
    return Turns(
        [
            Shuffle(rows, seed=seed, fingerprint=f"{name}={content[name]}")
            for name, rows in sizes.items()
        ]
    )


class TaskStream(RowStream):
    """Cuts the rows of several tasks into steps.

    Within a micro-batch rows stand in the order of their tasks (`Batch.task_rows`).

    Args:
        store: the tasks' tokens.
        sequence: of `task_sequence`.
        seq_length: positions of a row.
        global_batch_size: rows of a step, over all ranks.
        epochs: passes over the data; None: without end.
    """

    def __init__(
        self,
        store: TaskStores,
        sequence: Sequenced,
        *,
        seq_length: int,
        global_batch_size: int,
        epochs: float | None = None,
    ) -> None:
        self.store = store
        self.order = RowOrder(
            sequence, global_batch_size=global_batch_size, epochs=epochs
        )
        packings = [pack(one, seq_length) for one in store.stores.values()]
        weighted = any(one.weighted for one in store.stores.values())
        self._makers = [
            BatchMaker(one, packing, weighted=weighted)
            for one, packing in zip(store.stores.values(), packings, strict=True)
        ]
        self._first = np.concatenate([[0], np.cumsum([len(p) for p in packings])])
        # Compile-time bounds: equal for every mix of tasks.
        self._most_documents = max(maker.most_documents for maker in self._makers)
        self._longest = max(maker.longest for maker in self._makers)
        self._plain = all(maker.one_document_rows for maker in self._makers)
        self.fingerprint = store.fingerprint
        used = sum(int(maker.row_tokens.sum()) for maker in self._makers)
        self.utilisation = used / (int(self._first[-1]) * seq_length)

    @property
    def rows_without_labels(self) -> tuple[int, int]:
        """How many rows of all tasks have no label to learn from, of how many."""
        count = sum(maker.rows_without_labels for maker in self._makers)
        return count, int(self._first[-1])

    def read(self, taken: Taken, mine: Sequence[slice]) -> Read:
        """Packed rows of the tasks' stores."""
        rows = taken.rows(self.order.global_batch_size)
        parts = list(zip(self._makers, self._by_task(rows), strict=True))
        counts = [maker.count(local) for maker, local in parts]
        weights = [
            weight
            for maker, local in parts
            if (weight := maker.weight(local)) is not None
        ]
        return Read(
            [self._batch(rows[part]) for part in mine],
            loss_tokens=sum(loss_tokens for _, loss_tokens in counts),
            tokens=sum(tokens for tokens, _ in counts),
            task_loss_tokens=tuple(weights or [taught for _, taught in counts]),
            loss_weight=math.fsum(weights) if weights else None,
        )

    def _by_task(self, rows: Ints) -> list[Ints]:
        """Rows as numbers within their task; empty rows go to the first."""
        task = np.searchsorted(self._first, np.maximum(rows, 0), side="right") - 1
        return [
            np.where(rows[task == t] == EMPTY, EMPTY, rows[task == t] - first)
            for t, first in enumerate(self._first[:-1])
        ]

    def _batch(self, rows: Ints) -> Batch:
        locals_ = self._by_task(rows)
        parts = [
            maker.batch(local)
            for maker, local in zip(self._makers, locals_, strict=True)
            if len(local)
        ]
        batch = joined(parts, len(rows) * self._most_documents)
        batch = replace(
            batch,
            max_seqlen=max(batch.max_seqlen, self._longest),
            one_document_rows=batch.one_document_rows and self._plain,
        )
        return self.marked(batch, tuple(len(local) for local in locals_))

    def marked(self, batch: Batch, counts: tuple[int, ...]) -> Batch:
        """The batch with a word on which rows belong to which task.

        Args:
            batch: its rows stand in the order of the tasks.
            counts: rows of each task.
        """
        return replace(batch, task_rows=counts)


def joined(parts: Sequence[Batch], documents: int) -> Batch:
    """Batches one below the other.

    Args:
        parts: batches of rows of one length.
        documents: the most documents there can be; fixes the length of `cu_seqlens`.
    """
    starts, done = [], 0
    for part in parts:
        size = part.input_ids.numel()
        starts.append(part.cu_seqlens[part.cu_seqlens < size] + done)
        done += size
    edges = torch.full((documents + 1,), done, dtype=torch.int32)
    found = torch.cat(starts)
    edges[: len(found)] = found
    weights = [p.loss_weights for p in parts if p.loss_weights is not None]
    return Batch(
        input_ids=torch.cat([p.input_ids for p in parts]),
        labels=torch.cat([p.labels for p in parts]),
        position_ids=torch.cat([p.position_ids for p in parts]),
        document_ids=torch.cat([p.document_ids for p in parts]),
        cu_seqlens=edges,
        max_seqlen=max(p.max_seqlen for p in parts),
        one_document_rows=all(p.one_document_rows for p in parts),
        loss_weights=torch.cat(weights) if weights else None,
    )


def eval_task_batches(
    store: TaskStores,
    names: Sequence[str],
    seq_length: int,
    batch_size: int,
    limit: int,
    *,
    rank: int = 0,
    data_ranks: int = 1,
) -> Iterator[Batch]:
    """Held-out batches, each of one task; arguments as `eval_batches`.

    Where not all are taken, every task has the same share of its own, at least one.

    Args:
        store: the held-out tokens of some tasks.
        names: of all tasks, in the order of their heads.
    """
    sizes = {name: len(pack(one, seq_length)) for name, one in store.stores.items()}
    for name, one in store.stores.items():
        place = names.index(name)
        batches = eval_batches(
            one,
            seq_length,
            batch_size,
            max(1, math.ceil(limit * sizes[name] / max(sum(sizes.values()), 1))),
            rank=rank,
            data_ranks=data_ranks,
        )
        task_rows = tuple(batch_size if t == place else 0 for t in range(len(names)))
        for batch in batches:  # with the same bounds for every task: compiled once
            yield replace(
                batch,
                task_rows=task_rows,
                max_seqlen=seq_length,
                one_document_rows=False,
            )
