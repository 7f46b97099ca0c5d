"""Ordered rows -> the batches of each optimizer step, for one rank.

Which rows a step takes is the business of `lumina.data.order`, whatever the number of
ranks and the size of micro-batches; ranks then divide them. A kind of data only says
how its rows are read (`RowStream.read`).
"""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

from lumina.batch import Batch
from lumina.data.order import Cursor, RowOrder, Taken
from lumina.errors import LuminaError


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


def _weight_fact(weight: float | None) -> dict[str, float]:
    """What the labels of a step weigh, for the metrics of a weighted run."""
    return {} if weight is None else {"loss_weight": weight}


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
