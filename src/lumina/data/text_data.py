"""Text and conversations, read from files into a token store."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from itertools import zip_longest
from typing import TYPE_CHECKING, Any

import numpy as np
from numpy.typing import NDArray

from lumina.batch import Batch
from lumina.data.data_events import OnEvent
from lumina.data.kind import Data, DataKind, Request, Rows, Share
from lumina.data.mixture.row_orders import own_order, row_order
from lumina.data.order import Numbered
from lumina.data.packed_stream import BatchStream, InOrder, eval_batches, sequence_of
from lumina.data.packing import pack
from lumina.data.prepare import Prepared, fit_rows, prepare
from lumina.data.split import Progress
from lumina.data.store import TokenStore
from lumina.data.stream import RowStream
from lumina.data.unpacked import UnpackedStream, unpacked_sequence

if TYPE_CHECKING:
    from lumina.config import Config

PROMPT_TOKENS = 16
"""Tokens of a text that a sample goes on from; of a conversation, up to an answer."""


class TextData(Data):
    """One set of text.

    Args:
        prepared: its token stores.
    """

    def __init__(self, prepared: Prepared) -> None:
        self.prepared = prepared
        self.tokenizer = prepared.tokenizer
        self.stats = prepared.stats

    def rows(self, config: Config) -> Rows:
        """Packed rows, each once an epoch."""
        length, made = config.model.seq_length, self.prepared
        seed, in_order = config.train.seed, _in_order(config)
        if own_order(config):
            sequence = row_order(config, made.train, length, self.measures)
        elif config.loading.packing:
            sequence = sequence_of(made.train, length, seed, in_order)
        else:
            sequence = unpacked_sequence(made.train, length, seed, in_order)
        return Rows(
            vocab_size=made.tokenizer.vocab_size,
            sequence=sequence,
            held_out=len(pack(made.eval, length)) if made.eval else 0,
        )

    def stream(
        self,
        config: Config,
        rows: Rows,
        *,
        global_batch_size: int,
        epochs: float | None,
    ) -> RowStream:
        """Batches of packed rows, or of rows of one document each."""
        if not config.loading.packing:
            assert isinstance(rows.sequence, Numbered)
            return UnpackedStream(
                self.prepared.train,
                rows.sequence,
                seq_length=config.model.seq_length,
                global_batch_size=global_batch_size,
                epochs=epochs,
            )
        return BatchStream(
            self.prepared.train,
            seq_length=config.model.seq_length,
            global_batch_size=global_batch_size,
            seed=config.train.seed,
            epochs=epochs,
            in_order=_in_order(config),
            sequence=rows.sequence if own_order(config) else None,  # type: ignore[arg-type]
        )

    @property
    def holds_out(self) -> bool:
        """Whether some documents are held out."""
        return self.prepared.eval is not None

    def held_out(self, share: Share) -> Iterator[Batch]:
        """Batches of the held-out documents."""
        assert self.prepared.eval is not None
        return eval_batches(
            self.prepared.eval,
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
    ) -> TextData:
        """Long conversations as rows can hold them."""
        return TextData(
            fit_rows(
                self.prepared,
                config,
                config.model.seq_length,
                on_progress=on_progress,
                on_event=on_event,
            )
        )

    def document_lengths(self) -> list[NDArray[np.integer[Any]]]:
        """Tokens of each document."""
        return [np.diff(self.prepared.train.starts)]

    def prompts(self, count: int) -> list[list[int]]:
        """Beginnings of held-out documents, or of others where none are held out."""
        store = self.prepared.eval or self.prepared.train
        return [beginning(store, index) for index in range(min(count, len(store)))]


def _in_order(config: Config) -> InOrder | None:
    """How documents are ordered that are not to be shuffled."""
    loading = config.loading
    return InOrder(loading.dataset_start_offset) if loading.linear_dataset else None


def beginning(store: TokenStore, index: int) -> list[int]:
    """The beginning of a document, up to where the model is to go on."""
    start, end = int(store.starts[index]), int(store.starts[index + 1])
    if store.mask is None:
        end = start + min(PROMPT_TOKENS, (end - start) // 2)
    else:
        taught = store.bears_loss(np.arange(start, end)).nonzero()[0]
        end = start + int(taught[0]) if len(taught) else start
    ids: list[int] = store.tokens[start:end].tolist()
    return ids


def in_turns(found: Sequence[Sequence[list[int]]]) -> list[list[int]]:
    """The members of several lists, one of each in turn."""
    turns = zip_longest(*found)
    return [one for turn in turns for one in turn if one is not None]


def _prepare(request: Request) -> TextData:
    return TextData(
        prepare(
            request.config,
            tokenizer=request.tokenizer,
            on_progress=request.on_progress,
            on_event=request.on_event,
        )
    )


KIND = DataKind("text", _prepare, applies=lambda settings: True, trains_tokenizer=True)
