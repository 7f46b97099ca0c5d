"""Rows of several sources -> batches that know the source of each row."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from dataclasses import replace

import numpy as np
import torch

from lumina.batch import Batch
from lumina.data.mixture.sequence import Mixture
from lumina.data.order import Cursor
from lumina.data.task_stream import TaskStream, eval_task_batches
from lumina.data.tasks import TaskStores


class MixtureStream(TaskStream):
    """Cuts a mixture into steps. Rows stand in the order of their sources.

    Args:
        store: the tokens of each source.
        mixture: which rows come when.
        seq_length: positions of a row.
        global_batch_size: rows of a step, over all ranks.
        epochs: passes over the data; None: without end.
    """

    def __init__(
        self,
        store: TaskStores,
        mixture: Mixture,
        *,
        seq_length: int,
        global_batch_size: int,
        epochs: float | None = None,
    ) -> None:
        self.mixture = mixture.in_steps_of(global_batch_size)
        super().__init__(
            store,
            self.mixture,
            seq_length=seq_length,
            global_batch_size=global_batch_size,
            epochs=epochs,
        )

    def reweighted(self, cursor: Cursor, weights: Mapping[str, float] | None) -> Cursor:
        """The cursor from which the rows come in the shares of these weights."""
        return self.mixture.reweighted(cursor, weights)

    def marked(self, batch: Batch, counts: tuple[int, ...]) -> Batch:
        """The batch with the source of each row."""
        return replace(batch, source_ids=_ids(counts))


def eval_source_batches(
    store: TaskStores,
    names: tuple[str, ...],
    seq_length: int,
    batch_size: int,
    limit: int,
    *,
    rank: int = 0,
    data_ranks: int = 1,
) -> Iterator[Batch]:
    """Held-out batches, each of one source; arguments as `eval_task_batches`."""
    for batch in eval_task_batches(
        store, names, seq_length, batch_size, limit, rank=rank, data_ranks=data_ranks
    ):
        assert batch.task_rows is not None
        yield replace(batch, task_rows=None, source_ids=_ids(batch.task_rows))


def _ids(counts: tuple[int, ...]) -> torch.Tensor:
    """[B] the number of the source of each row, from the rows of each source."""
    return torch.from_numpy(np.repeat(np.arange(len(counts)), counts))
