"""What queries see, in pieces that a kernel without masks can compute.

A piece is a block of queries and a block of keys of which every query sees every key
(`ALL`), each query sees the keys up to its own place (`CAUSAL`), or from its own place
on (`ANTICAUSAL`: the far edge of a sliding window). Causal order, documents, windows
and sinks divide into such pieces exactly; only dilation does not.
"""

from __future__ import annotations

from collections.abc import Iterator
from typing import NamedTuple

import torch
from torch import Tensor

ALL, CAUSAL, ANTICAUSAL = "all", "causal", "anticausal"

QUERIES = 8192
"""Most queries of a piece: what kernels take beside their results grows with them."""

KEYS = 16_384
"""Most keys of a piece."""

FEW_KEYS = 1024
"""Blocks of keys are halved down to this to fill a rest, so that few shapes occur: a
kernel may be made ready for each shape, which takes longer than the piece itself."""


class Document(NamedTuple):
    """Queries that belong to one document.

    Attributes:
        row: of the batch; None: the same in all rows.
        begin: the first query.
        end: behind the last query.
        start: column among the keys where the document begins.
    """

    row: int | None
    begin: int
    end: int
    start: int


class Piece(NamedTuple):
    """A block of queries and a block of keys.

    Attributes:
        queries: their places among the queries.
        keys: their places among the keys.
        shape: `ALL`; or `CAUSAL` or `ANTICAUSAL`, with as many keys as queries.
    """

    queries: slice
    keys: slice
    shape: str


class Group(NamedTuple):
    """A block of queries and all that it sees.

    Attributes:
        rows: of the batch.
        queries: their places.
        pieces: the first one has a key for each of the queries.
    """

    rows: slice
    queries: slice
    pieces: list[Piece]


def documents_of(starts: Tensor | None, queries: int) -> list[Document]:
    """The documents of some queries.

    Args:
        starts: [B, S] int64, the column in which each query's document begins; None:
            every row is one document.
        queries: S.
    """
    if starts is None:
        return [Document(None, 0, queries, 0)]
    new = torch.ones_like(starts, dtype=torch.bool)
    new[:, 1:] = starts[:, 1:] != starts[:, :-1]
    where = new.nonzero()
    rows, begins = where.unbind(1)
    found = torch.cat([where, starts[rows, begins, None]], dim=1).tolist()
    ends = [
        after[1] if after[0] == this[0] else queries
        for this, after in zip(found, [*found[1:], [-1, 0, 0]], strict=True)
    ]
    return [
        Document(row, begin, end, start)
        for (row, begin, start), end in zip(found, ends, strict=True)
    ]


def groups_of(
    documents: list[Document], rows: int, shift: int, window: int, sinks: int
) -> Iterator[Group]:
    """All that is seen, each pair of a query and a key once.

    Args:
        documents: of the queries.
        rows: of the batch.
        shift: keys before the first query.
        window: tokens that a query sees, itself among them; 0: all.
        sinks: first tokens of a document that stay visible beyond the window.
    """
    most = min(QUERIES, window or QUERIES)
    for row, begin, end, start in documents:
        place = slice(0, rows) if row is None else slice(row, row + 1)
        first, last = begin + shift, end + shift
        # The sinks are a document of their own, which all later queries see whole.
        own = min(start + sinks, last) if window else start
        for low, high, opens in ((first, own, start), (max(first, own), last, own)):
            reach = 0 if opens < own else window
            for x in range(low, high, most):
                y = min(x + most, high)
                found = [*_seen(x, y, opens, reach)]
                if opens > start:
                    found += _whole(x, y, start, own)
                pieces = [
                    Piece(slice(q.start - shift, q.stop - shift), k, shape)
                    for q, k, shape in found
                ]
                yield Group(place, slice(x - shift, y - shift), pieces)


def _seen(x: int, y: int, start: int, window: int) -> Iterator[Piece]:
    """What the queries in columns x to y see of their document within a window."""
    own = slice(x, y)
    yield Piece(own, own, CAUSAL)
    if not window or y - window <= start:
        yield from _whole(x, y, start, x)
        return
    yield from _whole(x, y, y - window, x)
    # The query in column x + i sees the keys from x + i - window + 1 on.
    far = x - window + 1
    late = max(start - far, 0)  # queries that still see the document's first token
    edge = y - x - 1
    if late < edge:
        square = slice(x + late, x + edge), slice(far + late, far + edge)
        yield Piece(*square, ANTICAUSAL)
        yield from _whole(x, x + late, far + late, far + edge)


def _whole(x: int, y: int, begin: int, end: int) -> Iterator[Piece]:
    """Queries that see all of some keys, in blocks of few sizes."""
    while x < y and begin < end:
        size = KEYS
        while size > end - begin and size > FEW_KEYS:
            size //= 2
        size = min(size, end - begin)
        yield Piece(slice(x, y), slice(begin, begin + size), ALL)
        begin += size
