"""A token store -> packed rows, in an order that only its seed decides, as batches."""

from __future__ import annotations

import functools
from collections.abc import Iterator, Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from lumina.batch import Batch
from lumina.data.batches import BatchMaker
from lumina.data.order import (
    EMPTY,
    Linear,
    Numbered,
    RowOrder,
    Shuffle,
    Taken,
    permutation,
)
from lumina.data.packing import Packing, pack, pack_in_order
from lumina.data.store import TokenStore
from lumina.data.stream import Read, RowStream
from lumina.errors import LuminaError


class BatchStream(RowStream):
    """Cuts a shuffled store into steps.

    Args:
        store: the tokens.
        seq_length: positions of a row.
        global_batch_size: rows of a step, over all ranks.
        seed: with the epoch and the store's content, decides the order.
        epochs: passes over the data, perhaps fractional; None: without end.
        in_order: documents stay in their order; None: they are shuffled.
        sequence: the rows, where neither order is wanted.
    """

    def __init__(
        self,
        store: TokenStore,
        *,
        seq_length: int,
        global_batch_size: int,
        seed: int,
        epochs: float | None = None,
        in_order: InOrder | None = None,
        sequence: Numbered | None = None,
    ) -> None:
        self.store = store
        self.packing = packed(store, seq_length, in_order)
        if not len(self.packing):
            raise LuminaError("E105", "the data has no token to learn", "add data")
        self.order = RowOrder(
            sequence or sequence_of(store, seq_length, seed, in_order),
            global_batch_size=global_batch_size,
            epochs=epochs,
        )
        self._maker = BatchMaker(store, self.packing, weighted=store.weighted)
        self.fingerprint = store.fingerprint
        self.utilisation = self.packing.utilisation

    @property
    def rows_without_labels(self) -> tuple[int, int]:
        """How many rows have no label to learn from, of how many in all."""
        return self._maker.rows_without_labels, len(self.packing)

    def read(self, taken: Taken, mine: Sequence[slice]) -> Read:
        """Packed rows of the store."""
        rows = taken.rows(self.order.global_batch_size)
        tokens, loss_tokens = self._maker.count(rows)
        batches = [self._maker.batch(rows[part]) for part in mine]
        weight = self._maker.weight(rows)
        return Read(batches, loss_tokens, tokens, loss_weight=weight)


def shuffled(store: TokenStore, seq_length: int, seed: int) -> Shuffle:
    """Every packed row of a store once an epoch, each epoch in an order of its own."""
    rows = len(pack(store, seq_length))
    return Shuffle(rows, seed=seed, fingerprint=store.fingerprint)


@dataclass(frozen=True)
class InOrder:
    """Documents in the order in which they stand.

    Attributes:
        first: documents passed over at the start of the run.
    """

    first: int = 0


def packed(store: TokenStore, seq_length: int, in_order: InOrder | None) -> Packing:
    """The rows of a store, numbered."""
    return (
        pack(store, seq_length)
        if in_order is None
        else pack_in_order(store, seq_length)
    )


def sequence_of(
    store: TokenStore, seq_length: int, seed: int, in_order: InOrder | None
) -> Numbered:
    """Every row of a store once an epoch.

    Args:
        store: the tokens.
        seq_length: positions of a row.
        seed: decides the order of rows that are shuffled.
        in_order: documents stay in their order; None: rows are shuffled.

    Raises:
        LuminaError: E005 where all documents would be passed over.
    """
    if in_order is None:
        return shuffled(store, seq_length, seed)
    return linear(store, pack_in_order(store, seq_length), in_order)


def linear(store: TokenStore, rows: Packing, in_order: InOrder) -> Linear:
    """Rows of a store that keep its order, from a document on.

    Raises:
        LuminaError: E005 where all documents would be passed over.
    """
    if in_order.first >= len(store):
        raise LuminaError(
            "E005",
            f"dataset_start_offset {in_order.first:,} passes over all {len(store):,} "
            "documents to learn from",
            f"pass over at most {len(store) - 1:,}",
        )
    # The first chunk that begins with the document or after it, and its row.
    chunk = np.searchsorted(rows.starts, store.starts[in_order.first])
    row = int(np.searchsorted(rows.rows, chunk, side="right")) - 1
    return Linear(len(rows), first=min(row, len(rows) - 1))


def eval_batches(
    store: TokenStore,
    seq_length: int,
    batch_size: int,
    limit: int | None = None,
    *,
    rank: int = 0,
    data_ranks: int = 1,
) -> Iterator[Batch]:
    """The held-out data in batches, always the same ones in the same order.

    The order is shuffled once and for all, so that a limited evaluation is a fair
    sample. Every label weighs 1, whatever weights training uses: the perplexity is that
    of the tokens that bear loss, and compares with that of other runs. Ranks take
    turns; each gets the same number of batches (an empty one where there is none left),
    since sharded models run in step.

    Args:
        store: the held-out tokens.
        seq_length: positions of a row.
        batch_size: rows of a batch.
        limit: the most batches, over all ranks; None: all.
        rank: the rank that the share is for.
        data_ranks: ranks among which the rows are divided.
    """
    maker, order = _held_out(store, seq_length)
    batches = -(-len(order) // batch_size)
    if limit is not None:
        batches = min(batches, limit)
    for first in range(0, batches, data_ranks):
        rows = np.full(batch_size, EMPTY, dtype=np.int64)
        index = first + rank
        if index < batches:
            chosen = order[index * batch_size : (index + 1) * batch_size]
            rows[: len(chosen)] = chosen
        yield maker.batch(rows)


@functools.lru_cache(maxsize=32)  # an evaluation comes back every few steps
def _held_out(
    store: TokenStore, seq_length: int
) -> tuple[BatchMaker, NDArray[np.int64]]:
    packing = pack(store, seq_length)
    order = permutation(len(packing), 0, 0, store.fingerprint)
    return BatchMaker(store, packing), order
