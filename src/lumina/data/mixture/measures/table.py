"""The table of measures, and the tokens of a store chunk by chunk."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from typing import Protocol

import numpy as np
from numpy.typing import NDArray

from lumina.data.packing import Packing
from lumina.data.store import TokenStore

Floats = NDArray[np.float64]

Measure = Callable[[TokenStore, Packing], Floats]
"""From a store and its chunks to a number for each chunk; see `Packing` for what a
chunk is."""


class NamedMeasure(Protocol):
    """A measure that depends on more than the store, such as the weights of a model."""

    def __call__(self, store: TokenStore, packing: Packing) -> Floats:
        """A number for each chunk."""

    def named(self, fingerprint: str, seq_length: int) -> str:
        """The fingerprint of data whose order follows what was measured.

        Args:
            fingerprint: of the data alone.
            seq_length: positions of the rows that were measured.
        """


MEASURES: dict[str, Measure] = {}
"""Name -> measure; filled by `register_measure`."""

_STEP = 2**22
"""Tokens that are looked at together, to bound memory."""


def register_measure(name: str) -> Callable[[Measure], Measure]:
    """Enter a measure in the table under a name that options can use."""

    def enter(measure: Measure) -> Measure:
        MEASURES[name] = measure
        return measure

    return enter


def of_rows(chunks: Floats, packing: Packing) -> Floats:
    """[R] the mean of the chunks of each row, by their tokens."""
    lengths = packing.lengths.astype(np.float64)
    totals = np.append(0.0, np.cumsum(chunks * lengths))
    tokens = np.append(0.0, np.cumsum(lengths))
    first, last = packing.rows[:-1], packing.rows[1:]
    found: Floats = (totals[last] - totals[first]) / (tokens[last] - tokens[first])
    return found


def token_blocks(
    store: TokenStore, packing: Packing
) -> Iterator[tuple[slice, NDArray[np.int64], NDArray[np.int64]]]:
    """Chunks with their tokens, some at a time.

    Yields:
        Which chunks, their tokens one after the other, and where each chunk begins.
    """
    ends = np.cumsum(packing.lengths, dtype=np.int64)
    edges = np.searchsorted(ends, np.arange(0, ends[-1] + _STEP, _STEP))
    for first, last in zip(edges, np.append(edges[1:], len(ends)), strict=True):
        if first == last:
            continue
        lengths = packing.lengths[first:last].astype(np.int64)
        before = np.cumsum(lengths) - lengths
        position = np.arange(lengths.sum()) - np.repeat(before, lengths)
        source = np.repeat(packing.starts[first:last], lengths) + position
        yield slice(first, last), store.tokens[source].astype(np.int64), before
