"""Text of several tasks as data of a run."""

from __future__ import annotations

from collections.abc import Iterator
from typing import TYPE_CHECKING, Any

import numpy as np
from numpy.typing import NDArray

from lumina.batch import Batch
from lumina.data.data_events import OnEvent
from lumina.data.kind import Data, DataKind, Request, Rows, Share
from lumina.data.packing import pack
from lumina.data.split import Progress
from lumina.data.task_stream import TaskStream, eval_task_batches, task_sequence
from lumina.data.tasks import PreparedTasks, fit_task_rows, prepare_tasks

if TYPE_CHECKING:
    from lumina.config import Config


class TasksData(Data):
    """A set of text for each task.

    Args:
        prepared: the tasks' token stores.
    """

    def __init__(self, prepared: PreparedTasks) -> None:
        self.prepared = prepared
        self.tokenizer = prepared.tokenizer
        self.stats = prepared.stats

    def rows(self, config: Config) -> Rows:
        """Rows of all tasks; a strategy decides which task's row comes next."""
        made, length = self.prepared, config.model.seq_length
        held_out = made.eval.stores.values() if made.eval else ()
        return Rows(
            vocab_size=made.tokenizer.vocab_size,
            sequence=task_sequence(
                made.train,
                seq_length=length,
                seed=config.train.seed,
                strategy=config.data.task_sampling_strategy,
            ),
            held_out=sum(len(pack(store, length)) for store in held_out),
        )

    def stream(
        self,
        config: Config,
        rows: Rows,
        *,
        global_batch_size: int,
        epochs: float | None,
    ) -> TaskStream:
        """Batches whose rows stand in the order of their tasks."""
        return TaskStream(
            self.prepared.train,
            rows.sequence,
            seq_length=config.model.seq_length,
            global_batch_size=global_batch_size,
            epochs=epochs,
        )

    @property
    def holds_out(self) -> bool:
        """Whether documents of some task are held out."""
        return self.prepared.eval is not None

    def held_out(self, share: Share) -> Iterator[Batch]:
        """Held-out batches, each of one task."""
        assert self.prepared.eval is not None
        return eval_task_batches(
            self.prepared.eval,
            tuple(self.prepared.train.stores),
            share.seq_length,
            share.batch_size,
            share.limit,
            rank=share.rank,
            data_ranks=share.data_ranks,
        )

    def fit(
        self,
        config: Config,
        on_progress: Progress | None = None,
        on_event: OnEvent | None = None,
    ) -> TasksData:
        """Long conversations of each task as rows can hold them."""
        return TasksData(
            fit_task_rows(
                self.prepared,
                config.model.seq_length,
                on_progress=on_progress,
                on_event=on_event,
            )
        )

    def document_lengths(self) -> list[NDArray[np.integer[Any]]]:
        """Tokens of each document, task by task."""
        return [np.diff(store.starts) for store in self.prepared.train.stores.values()]


def _prepare(request: Request) -> TasksData:
    return TasksData(
        prepare_tasks(
            request.config,
            tokenizer=request.tokenizer,
            on_progress=request.on_progress,
            on_event=request.on_event,
        )
    )


KIND = DataKind(
    "tasks",
    _prepare,
    gives="tasks",
    applies=lambda settings: bool(settings.data.tasks),
    trains_tokenizer=True,
)
