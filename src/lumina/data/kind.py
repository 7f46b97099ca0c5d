"""What a kind of data is: the contract between a run and what it learns from.

A kind of data is one file. It holds a subclass of `Data`, and a function that prepares
it. A `DataKind` describes it: those of Lumina's own kinds stand in
`lumina.data.kinds.KINDS`, a plug-in's is made by `lumina.register_data`.
"""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any, Literal

import numpy as np
from numpy.typing import NDArray

from lumina.batch import Batch
from lumina.data.data_events import OnEvent
from lumina.data.order import Sequenced
from lumina.data.split import Progress
from lumina.data.stream import RowStream
from lumina.data.tokenizer import Tokenizer

if TYPE_CHECKING:
    from lumina.config import Config
    from lumina.config.settings import Settings
    from lumina.data.mixture.measures.table import NamedMeasure

Gives = Literal["text", "tasks", "puzzles"]
"""What a model learns from: text, text of several tasks, or puzzles."""

Score = Callable[[NDArray[np.uint8], NDArray[np.float32]], dict[str, float]]
"""From the answers [R, S] and halting logits [R] of all held-out rows to shares."""


@dataclass(frozen=True)
class Request:
    """What data is prepared from.

    Attributes:
        config: the settings.
        tokenizer: the one to use, whatever the settings say; None: as they say.
        options: the kind's options with their values.
        on_progress: called with (stage, done, total); amounts are bytes.
        on_event: called with events that the user should see.
    """

    config: Config
    tokenizer: Tokenizer | None = None
    options: Mapping[str, Any] = field(default_factory=dict)
    on_progress: Progress | None = None
    on_event: OnEvent | None = None


@dataclass(frozen=True)
class Rows:
    """The rows of prepared data.

    Attributes:
        vocab_size: one more than the greatest token id that can occur.
        sequence: which rows come when.
        held_out: rows held out; None where that is not known.
        num_puzzles: identifiers of puzzles; None where there are no puzzles.
    """

    vocab_size: int
    sequence: Sequenced
    held_out: int | None = 0
    num_puzzles: int | None = None


@dataclass(frozen=True)
class Share:
    """One rank's part of the held-out batches.

    Attributes:
        seq_length: positions of a row.
        batch_size: rows of a batch.
        limit: the most batches, over all ranks.
        rank: this rank.
        data_ranks: ranks among which the rows are divided. They take turns with the
            batches, and each gets the same number of them, because sharded models run
            in step.
    """

    seq_length: int
    batch_size: int
    limit: int
    rank: int = 0
    data_ranks: int = 1


class Data(ABC):
    """The data of a run, ready to train on.

    Attributes:
        tokenizer: what makes ids of texts; None where the data is no text.
        stats: counts and sizes for the banner, the report and `lumina plan`; plain JSON
            values.
        score: judges the answers to held-out rows where the loss does not.
        measures: measures of rows by name, beside those of `lumina.data.mixture`.
    """

    tokenizer: Tokenizer | None = None
    stats: Mapping[str, Any] = {}
    score: Score | None = None
    measures: Mapping[str, NamedMeasure] = {}

    @abstractmethod
    def rows(self, config: Config) -> Rows:
        """The rows that these settings make of the data."""

    @abstractmethod
    def stream(
        self,
        config: Config,
        rows: Rows,
        *,
        global_batch_size: int,
        epochs: float | None,
    ) -> RowStream:
        """The rows as batches.

        Args:
            config: the settings that made `rows`.
            rows: of this data.
            global_batch_size: rows of a step, over all ranks.
            epochs: passes over the data after which it ends; None: it goes on.
        """

    @property
    def holds_out(self) -> bool:
        """Whether there are held-out rows."""
        return False

    def held_out(self, share: Share) -> Iterator[Batch]:
        """A rank's held-out batches, always the same ones in the same order."""
        return iter(())

    def fit(
        self,
        config: Config,
        on_progress: Progress | None = None,
        on_event: OnEvent | None = None,
    ) -> Data:
        """The data for rows of the length that was decided; by default, as it is."""
        return self

    def facts(self, config: Config) -> Mapping[str, str]:
        """Further lines for the banner: what they are about, and the text."""
        return {}

    def document_lengths(self) -> list[NDArray[np.integer[Any]]] | None:
        """Tokens of each document to learn from, in any grouping; None: not known."""
        return None

    def prompts(self, count: int) -> list[list[int]]:
        """Beginnings of up to `count` documents, for samples in the run's report."""
        return []


@dataclass(frozen=True)
class DataKind:
    """A kind of data, and when it is chosen.

    Attributes:
        name: what `--data-kind` calls it.
        prepare: reads the data. Rank 0 calls it first; the other ranks follow, and find
            what it left in the cache.
        gives: what a model can learn from it.
        applies: whether it is the data that the settings describe, where no kind is
            named. A plug-in's kind never is: it has to be named.
        options: names and defaults of the kind's own options (`--data-options`).
        trains_tokenizer: without `--tokenizer`, one is trained on the data.
    """

    name: str
    prepare: Callable[[Request], Data]
    gives: Gives = "text"
    applies: Callable[[Settings], bool] | None = None
    options: Mapping[str, Any] = field(default_factory=dict)
    trains_tokenizer: bool = False
