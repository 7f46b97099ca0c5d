"""Rows of a packing -> a `Batch` of tensors."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray

from lumina.batch import IGNORE, Batch
from lumina.data.packing import Packing
from lumina.data.store import TokenStore

Ints = NDArray[np.int64]


class BatchMaker:
    """Gathers rows from the memory-mapped store.

    Args:
        store: the tokens.
        packing: which of them stand in which row.
        weighted: labels weigh what the store says; False: all of them 1.
    """

    def __init__(
        self, store: TokenStore, packing: Packing, *, weighted: bool = False
    ) -> None:
        self.store = store
        self.packing = packing
        self.weighted = weighted
        chunks = np.diff(packing.rows)
        self.row_tokens = _sums(packing.lengths, packing.rows)
        self.row_loss_tokens = self._loss_tokens()
        self.row_loss_weights = self._loss_weights() if self.weighted else None
        self.rows_without_labels = int((self.row_loss_tokens == 0).sum())
        # Padding counts as one more document of its row.
        padded = self.row_tokens < packing.seq_length
        self.most_documents = int((chunks + padded).max(initial=1))
        # One answer for all full batches: code is compiled for it, and a batch that
        # differs late in a run would compile everything again.
        self.one_document_rows = bool((chunks == 1).all() and not padded.any())
        self.longest = self._longest()

    def count(self, rows: Ints) -> tuple[int, int]:
        """(tokens, tokens that bear loss) of some rows; negative ones are empty."""
        rows = rows[rows >= 0]
        return int(self.row_tokens[rows].sum()), int(self.row_loss_tokens[rows].sum())

    def weight(self, rows: Ints) -> float | None:
        """What the labels of some rows weigh together; None where each weighs 1."""
        if self.row_loss_weights is None:
            return None
        return float(self.row_loss_weights[rows[rows >= 0]].sum())

    def batch(self, rows: Ints) -> Batch:
        """The batch of these rows; a negative number gives an empty row.

        Whatever decides shapes or code depends on the number of rows only, and on
        whether one of them is empty.
        """
        width = self.packing.seq_length
        chunk, row = self._chunks(rows)
        lengths = self.packing.lengths[chunk].astype(np.int64)
        before = np.cumsum(lengths) - lengths
        filled = np.zeros(len(rows), dtype=np.int64)
        np.add.at(filled, row, lengths)
        # Where each chunk begins in its own row.
        row_first = np.cumsum(filled) - filled
        begin = row * width + before - row_first[row]

        position = np.arange(lengths.sum()) - np.repeat(before, lengths)
        source = np.repeat(self.packing.starts[chunk], lengths) + position
        target = np.repeat(begin, lengths) + position

        size = len(rows) * width
        inputs = np.zeros(size, dtype=np.int64)
        labels = np.full(size, IGNORE, dtype=np.int64)
        documents = np.full(size, -1, dtype=np.int64)
        inputs[target] = self.store.tokens[source]
        taught = self.store.bears_loss(source + 1)
        labels[target[taught]] = self.store.tokens[source[taught] + 1]
        weights = None
        if self.weighted:
            weights = np.zeros(size, dtype=np.float32)
            weights[target[taught]] = self.store.loss_weights(source[taught] + 1)
        documents[target] = np.repeat(_ranks(row), lengths)
        positions = self._padding_positions(filled)
        positions[target] = position

        edges = self._edges(begin, filled)
        empty = bool((rows < 0).any())
        shape = (len(rows), width)
        return Batch(
            input_ids=torch.from_numpy(inputs.reshape(shape)),
            labels=torch.from_numpy(labels.reshape(shape)),
            position_ids=torch.from_numpy(positions.reshape(shape)),
            document_ids=torch.from_numpy(documents.reshape(shape)),
            cu_seqlens=torch.from_numpy(edges),
            max_seqlen=width if empty else self.longest,
            one_document_rows=self.one_document_rows and not empty,
            loss_weights=(
                None if weights is None else torch.from_numpy(weights.reshape(shape))
            ),
        )

    def _longest(self) -> int:
        """At least the longest document of any row, or padding: a power of two."""
        width = self.packing.seq_length
        padding = width - self.row_tokens.min(initial=width)
        longest = int(max(self.packing.lengths.max(initial=1), padding))
        return min(1 << (longest - 1).bit_length(), width)

    def _chunks(self, rows: Ints) -> tuple[Ints, Ints]:
        """The chunks of some rows, and for each the place of its row in the batch."""
        real = np.flatnonzero(rows >= 0)
        first = self.packing.rows[rows[real]]
        counts = self.packing.rows[rows[real] + 1] - first
        offset = np.arange(counts.sum()) - np.repeat(np.cumsum(counts) - counts, counts)
        return np.repeat(first, counts) + offset, np.repeat(real, counts)

    def _padding_positions(self, filled: Ints) -> Ints:
        """[B * S] positions as if every row were padding after its `filled` tokens."""
        place = np.arange(self.packing.seq_length)
        positions: Ints = np.maximum(place[None, :] - filled[:, None], 0)
        return positions.reshape(-1)

    def _edges(self, begin: Ints, filled: Ints) -> NDArray[np.int32]:
        """`cu_seqlens` of the chunks and the padding after them."""
        width = self.packing.seq_length
        size = len(filled) * width
        padded = np.flatnonzero(filled < width)
        starts = np.sort(np.concatenate([begin, padded * width + filled[padded]]))
        edges = np.full(len(filled) * self.most_documents + 1, size, dtype=np.int32)
        edges[: len(starts)] = starts
        return edges

    def _loss_tokens(self) -> Ints:
        """[R] labels that count, of every row."""
        if self.store.mask is None or not len(self.packing):
            return self.row_tokens
        counts = self._by_chunk(self.store.bears_loss, np.int64)
        return _sums(counts, self.packing.rows)

    def _loss_weights(self) -> NDArray[np.float64]:
        """[R] what the labels of every row weigh together."""

        def weight(positions: Ints) -> NDArray[np.float64]:
            found = self.store.loss_weights(positions).astype(np.float64)
            return np.where(self.store.bears_loss(positions), found, 0.0)

        if not len(self.packing):
            return np.zeros(0)
        # A sum for each row by itself: differences of a running sum are not exact.
        found = self._by_chunk(weight, np.float64)
        return np.add.reduceat(found, self.packing.rows[:-1])

    def _by_chunk(
        self, value: Callable[[Ints], NDArray[Any]], dtype: type
    ) -> NDArray[Any]:
        """[C] the sum of a value of the labels of every chunk."""
        counts: NDArray[Any] = np.empty(len(self.packing.lengths), dtype=dtype)
        ends = np.cumsum(self.packing.lengths, dtype=np.int64)
        step = 2**22  # positions looked at together, to bound memory
        edges = np.searchsorted(ends, np.arange(0, ends[-1] + step, step))
        for first, last in zip(edges, np.append(edges[1:], len(ends)), strict=True):
            if first == last:
                continue
            lengths = self.packing.lengths[first:last].astype(np.int64)
            before = np.cumsum(lengths) - lengths
            position = np.arange(lengths.sum()) - np.repeat(before, lengths)
            source = np.repeat(self.packing.starts[first:last], lengths) + position
            found: NDArray[Any] = value(source + 1).astype(dtype)
            counts[first:last] = np.add.reduceat(found, before)
        return counts


def _sums(values: NDArray[np.integer[Any]], rows: Ints) -> Ints:
    """Sum of the values of each row's chunks."""
    totals: Ints = np.append(0, np.cumsum(values, dtype=np.int64))
    return np.asarray(totals[rows[1:]] - totals[rows[:-1]])


def _ranks(row: Ints) -> Ints:
    """0, 1, 2 ... within each run of equal values."""
    first = np.flatnonzero(np.diff(row, prepend=-1))
    counts = np.diff(np.append(first, len(row)))
    return np.arange(len(row)) - np.repeat(first, counts)
