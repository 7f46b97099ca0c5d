"""Text of several tasks as data of a run."""

from __future__ import annotations

from collections.abc import Iterator
from typing import TYPE_CHECKING

from lumina.batch import Batch
from lumina.data.kind import DataKind, Request, Rows, Share
from lumina.data.named_data import NamedData
from lumina.data.task_stream import TaskStream, eval_task_batches, task_sequence
from lumina.data.tasks import prepare_tasks

if TYPE_CHECKING:
    from lumina.config import Config


class TasksData(NamedData):
    """A set of text for each task.

    Args:
        prepared: the tasks' token stores.
    """

    def rows(self, config: Config) -> Rows:
        """Rows of all tasks; a strategy decides which task's row comes next."""
        made, length = self.prepared, config.model.seq_length
        return Rows(
            vocab_size=made.tokenizer.vocab_size,
            sequence=task_sequence(
                made.train,
                seq_length=length,
                seed=config.train.seed,
                strategy=config.data.task_sampling_strategy,
            ),
            held_out=self.held_out_rows(length),
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
