"""Several sets of text under names: what tasks and sources of a mixture share."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any, Self

import numpy as np
from numpy.typing import NDArray

from lumina.data.data_events import OnEvent
from lumina.data.kind import Data
from lumina.data.packing import pack
from lumina.data.split import Progress
from lumina.data.tasks import PreparedTasks, fit_task_rows

if TYPE_CHECKING:
    from lumina.config import Config


class NamedData(Data):
    """A set of text for each name.

    Args:
        prepared: their token stores.
    """

    def __init__(self, prepared: PreparedTasks) -> None:
        self.prepared = prepared
        self.tokenizer = prepared.tokenizer
        self.stats = prepared.stats

    @property
    def holds_out(self) -> bool:
        """Whether documents of some set are held out."""
        return self.prepared.eval is not None

    def held_out_rows(self, length: int) -> int:
        """Held-out rows of `length` positions, of all sets."""
        held_out = self.prepared.eval
        stores = held_out.stores.values() if held_out else ()
        return sum(len(pack(store, length)) for store in stores)

    def fit(
        self,
        config: Config,
        on_progress: Progress | None = None,
        on_event: OnEvent | None = None,
    ) -> Self:
        """Long conversations of each set as rows can hold them."""
        fitted = fit_task_rows(
            self.prepared,
            config.model.seq_length,
            on_progress=on_progress,
            on_event=on_event,
        )
        return type(self)(fitted)

    def document_lengths(self) -> list[NDArray[np.integer[Any]]]:
        """Tokens of each document, set by set."""
        return [np.diff(store.starts) for store in self.prepared.train.stores.values()]
