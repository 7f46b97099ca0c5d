"""The parts of a window -> its rows, packed as the rows of a token store are."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

from lumina.data.packing import Packing, best_fit, cut, next_fit
from lumina.data.tokenise import Encoded

Ints = NDArray[np.int64]


@dataclass(frozen=True)
class Tokens:
    """Tokens of a window, or of some of its rows; read as a token store is.

    Attributes:
        tokens: [T] ids.
        mask: [T], which of them count as labels.
        weights: [T], what each label weighs in the loss; None: all weigh 1.
    """

    tokens: NDArray[np.uint32]
    mask: NDArray[np.bool_]
    weights: NDArray[np.float32] | None = None

    @property
    def weighted(self) -> bool:
        """Whether some labels may weigh something else than 1."""
        return self.weights is not None

    def bears_loss(self, positions: Ints) -> NDArray[np.bool_]:
        """Which of these tokens count as labels."""
        return np.asarray(self.mask[positions])

    def loss_weights(self, positions: Ints) -> NDArray[np.float32]:
        """What each of these tokens weighs in the loss."""
        if self.weights is None:
            return np.ones(len(positions), dtype=np.float32)
        return np.asarray(self.weights[positions])


@dataclass(frozen=True)
class WindowRows:
    """The rows of one window.

    Attributes:
        tokens: of the window, after the token that it goes on from.
        packing: which of them stand in which row.
        carry: the last token, where the last document goes on behind the window. It is
            the input whose label is the first token there. None: the document ends.
    """

    tokens: Tokens
    packing: Packing
    carry: int | None

    def __len__(self) -> int:
        """The number of rows."""
        return len(self.packing)


def rows_of(
    encoded: Sequence[Encoded], carry: int | None, seq_length: int, *, in_order: bool
) -> WindowRows:
    """Pack the parts of a window into rows; every label stands in exactly one.

    Args:
        encoded: the parts.
        carry: `WindowRows.carry` of the window before.
        seq_length: positions of a row.
        in_order: keep the order of the documents, in place of the least padding.
    """
    parts = [one for one in encoded if one.last or len(one.ids)]
    lengths = np.array([len(one.ids) for one in parts], dtype=np.int64)
    ends = np.array([one.last for one in parts], dtype=bool)
    ids = [one.ids for one in parts]
    masks = [one.mask for one in parts]
    before = 0
    if carry is not None:
        ids.insert(0, np.array([carry], dtype=np.uint32))
        masks.insert(0, np.zeros(1, dtype=bool))
        before = 1
    tokens = np.concatenate(ids) if ids else np.zeros(0, np.uint32)
    mask = np.concatenate(masks) if masks else np.zeros(0, bool)
    starts = np.append(0, (np.cumsum(lengths) + before)[ends])
    open_end = len(tokens) > starts[-1]
    if open_end:
        starts = np.append(starts, len(tokens))
    chunk_starts, chunk_lengths = cut(starts, seq_length)
    return WindowRows(
        Tokens(tokens, mask, _weights(parts, before)),
        _packing(chunk_starts, chunk_lengths, seq_length, in_order),
        int(tokens[-1]) if open_end else None,
    )


def _weights(parts: Sequence[Encoded], before: int) -> NDArray[np.float32] | None:
    """What each token of a window weighs; None where all weigh 1."""
    if all(one.weights is None for one in parts):
        return None
    found = [np.ones(before, dtype=np.float32)]
    for one in parts:
        ones = np.ones(len(one.ids), dtype=np.float32)
        found.append(ones if one.weights is None else one.weights)
    return np.concatenate(found)


def _packing(starts: Ints, lengths: Ints, seq_length: int, in_order: bool) -> Packing:
    if in_order:
        rows = next_fit(lengths, seq_length)
        return Packing(starts, lengths.astype(np.int32), rows, seq_length)
    row = best_fit(lengths, seq_length)
    order = np.argsort(row, kind="stable")
    counts = np.bincount(row) if len(row) else np.zeros(0, np.int64)
    return Packing(
        starts[order],
        lengths[order].astype(np.int32),
        np.append(0, np.cumsum(counts)).astype(np.int64),
        seq_length,
    )


Row = tuple[WindowRows, int]
"""A row: its window, and its number there."""


def gathered(rows: Sequence[Row], seq_length: int) -> tuple[Tokens, Packing]:
    """Some rows, perhaps of several windows, as tokens and a packing of their own."""
    pieces: list[slice] = []
    sources: list[Tokens] = []
    lengths: list[int] = []
    counts = [0]
    for window, number in rows:
        packing = window.packing
        first, end = int(packing.rows[number]), int(packing.rows[number + 1])
        for chunk in range(first, end):
            start, length = int(packing.starts[chunk]), int(packing.lengths[chunk])
            pieces.append(slice(start, start + length + 1))
            sources.append(window.tokens)
            lengths.append(length)
        counts.append(end - first)
    chunk_lengths = np.array(lengths, dtype=np.int32)
    ends = np.cumsum(chunk_lengths + 1, dtype=np.int64)
    parts = list(zip(sources, pieces, strict=True))
    weights = None
    if any(one.weighted for one in sources):
        every = [np.arange(part.start, part.stop) for _, part in parts]
        weights = _joined(
            [one.loss_weights(at) for (one, _), at in zip(parts, every, strict=True)]
        )
    tokens = Tokens(
        _joined([one.tokens[part] for one, part in parts]),
        _joined([one.mask[part] for one, part in parts]),
        weights,
    )
    starts = ends - chunk_lengths - 1
    return tokens, Packing(starts, chunk_lengths, np.cumsum(counts), seq_length)


def _joined(arrays: list[NDArray[Any]]) -> NDArray[Any]:
    return np.concatenate(arrays) if arrays else np.zeros(0, np.uint32)
