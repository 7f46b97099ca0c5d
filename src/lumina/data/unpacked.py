"""Rows of one document each, in batches of rows that are alike in length.

Without packing, a row is a document or a piece of one, and the rest of it is padding.
Rows are sorted by length within large groups and taken in short runs, whose order is
shuffled: a batch has rows of about one length, and is only as wide as they need.
"""

from __future__ import annotations

import copy
from collections.abc import Sequence
from dataclasses import replace

import numpy as np
from numpy.typing import NDArray

from lumina.data.batches import BatchMaker
from lumina.data.order import Numbered, RowId, RowOrder, Taken, permutation
from lumina.data.packed_stream import InOrder, linear
from lumina.data.packing import Packing, cut
from lumina.data.store import TokenStore
from lumina.data.stream import Read, RowStream
from lumina.errors import LuminaError

GROUP = 4096
"""Rows that are sorted by length together; their groups are drawn anew every epoch."""

RUN = 32
"""Rows of about one length that come one after the other."""

NARROWEST = 32
"""Batches are this wide or twice, four times ... so: each width is compiled once."""


def unpacked(store: TokenStore, seq_length: int) -> Packing:
    """A row for every document, or for every `seq_length` positions of a longer one."""
    starts, lengths = cut(store.starts, seq_length)
    rows = np.arange(len(starts) + 1, dtype=np.int64)
    return Packing(starts, lengths.astype(np.int32), rows, seq_length)


class ByLength(Numbered):
    """Every row once an epoch, in runs of rows that are alike in length.

    Args:
        lengths: of the rows.
        seed: with the epoch and the fingerprint, decides the order.
        fingerprint: names the content of the data.
    """

    def __init__(
        self, lengths: NDArray[np.int32], *, seed: int, fingerprint: str
    ) -> None:
        self._lengths = lengths
        self._seed = seed
        self._fingerprint = fingerprint
        self._epoch: tuple[int, NDArray[np.int64]] | None = None

    @property
    def rows_per_epoch(self) -> int:
        """All rows."""
        return len(self._lengths)

    def row_ids(self, begin: int, end: int) -> list[RowId]:
        """The rows begin .. end - 1 of the run."""
        ids: list[RowId] = []
        while begin < end:
            epoch, row = divmod(begin, len(self._lengths))
            rows = self._order(epoch)[row : row + end - begin]
            ids += [(epoch, one) for one in rows.tolist()]
            begin += len(rows)
        return ids

    def _order(self, epoch: int) -> NDArray[np.int64]:
        """The order of an epoch; the last one used is kept."""
        if self._epoch is None or self._epoch[0] != epoch:
            self._epoch = epoch, self._ordered(epoch)
        return self._epoch[1]

    def _ordered(self, epoch: int) -> NDArray[np.int64]:
        count = len(self._lengths)
        rows = permutation(count, self._seed, epoch, self._fingerprint)
        group = np.arange(count) // GROUP
        rows = rows[np.lexsort((self._lengths[rows], group))]
        runs = -(-count // RUN)
        order = permutation(runs, self._seed, epoch, f"{self._fingerprint}:runs")
        return np.concatenate([rows[run * RUN : (run + 1) * RUN] for run in order])


def unpacked_sequence(
    store: TokenStore, seq_length: int, seed: int, in_order: InOrder | None
) -> Numbered:
    """The rows of `unpacked`, by length or in the order of the documents.

    Args:
        store: the tokens.
        seq_length: positions of the longest row.
        seed: decides the order of rows that are taken by length.
        in_order: documents stay in their order; None: alike lengths come together.

    Raises:
        LuminaError: E005 where all documents would be passed over.
    """
    rows = unpacked(store, seq_length)
    if in_order is not None:
        return linear(store, rows, in_order)
    return ByLength(rows.lengths, seed=seed, fingerprint=store.fingerprint)


class UnpackedStream(RowStream):
    """Cuts rows of one document each into steps.

    Args:
        store: the tokens.
        sequence: the rows of `unpacked`, in some order.
        seq_length: positions of the longest row.
        global_batch_size: rows of a step, over all ranks.
        epochs: passes over the data, perhaps fractional; None: without end.
    """

    def __init__(
        self,
        store: TokenStore,
        sequence: Numbered,
        *,
        seq_length: int,
        global_batch_size: int,
        epochs: float | None = None,
    ) -> None:
        self.store = store
        self.packing = unpacked(store, seq_length)
        if not len(self.packing):
            raise LuminaError("E105", "the data has no token to learn", "add data")
        self.order = RowOrder(
            sequence, global_batch_size=global_batch_size, epochs=epochs
        )
        self.fingerprint = store.fingerprint
        self._whole = BatchMaker(store, self.packing, weighted=store.weighted)
        self._makers: dict[int, BatchMaker] = {}

    @property
    def rows_without_labels(self) -> tuple[int, int]:
        """How many rows have no label to learn from, of how many in all."""
        return self._whole.rows_without_labels, len(self.packing)

    def read(self, taken: Taken, mine: Sequence[slice]) -> Read:
        """Rows of the store, no wider than the longest of a micro-batch needs."""
        rows = taken.rows(self.order.global_batch_size)
        tokens, loss_tokens = self._whole.count(rows)
        batches = [
            self._maker(self.width(rows[part])).batch(rows[part]) for part in mine
        ]
        return Read(batches, loss_tokens, tokens, loss_weight=self._whole.weight(rows))

    def width(self, rows: NDArray[np.int64]) -> int:
        """Positions that a batch of these rows needs."""
        longest = int(self.packing.lengths[rows[rows >= 0]].max(initial=1))
        wide = NARROWEST
        while wide < longest:
            wide *= 2
        return min(wide, self.packing.seq_length)

    def _maker(self, width: int) -> BatchMaker:
        """Makes batches of this width, of rows that fit into it."""
        if width not in self._makers:
            maker = copy.copy(self._whole)
            maker.packing = replace(self.packing, seq_length=width)
            maker.most_documents, maker.longest = 2, width
            maker.one_document_rows = False
            self._makers[width] = maker
        return self._makers[width]
