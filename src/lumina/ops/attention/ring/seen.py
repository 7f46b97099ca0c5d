"""What the queries of one rank see of the keys that each rank holds, in pieces."""

from __future__ import annotations

from collections.abc import Iterator
from typing import NamedTuple

from torch import Tensor

from lumina.ops.attention.pieces import (
    ALL,
    ANTICAUSAL,
    CAUSAL,
    Piece,
    documents_of,
    groups_of,
)
from lumina.ops.attention.ring.zigzag import Zigzag


class Seen(NamedTuple):
    """A piece of some rows.

    Attributes:
        rows: of the batch.
        piece: its queries are places in the part of the rank that asks, its keys in the
            part of the rank that holds them.
    """

    rows: slice
    piece: Piece


def seen_by(
    rank: int,
    zigzag: Zigzag,
    starts: Tensor | None,
    rows: int,
    window: int,
    sinks: int,
) -> list[list[Seen]]:
    """All that a rank's queries see, each pair of a query and a key once.

    Args:
        rank: that asks.
        zigzag: who holds what.
        starts: [B, columns of the rank's part] int64 on the CPU, the column of the
            whole row in which each query's document begins; None: every row is one
            document.
        rows: B.
        window: tokens that a query sees, itself among them; 0: all.
        sinks: first tokens of a document that stay visible beyond the window.

    Returns:
        For each rank, the pieces of its keys. Every query sees itself, in a piece of
        its own rank's keys.
    """
    found: list[list[Seen]] = [[] for _ in range(zigzag.ranks)]
    at = 0  # where a chunk begins in the rank's part
    for chunk in zigzag.of(rank):
        size = chunk.stop - chunk.start
        own = None if starts is None else starts[:, at : at + size]
        # A document may go on in the other chunk, but not side by side.
        documents = documents_of(own, size)
        for group in groups_of(documents, rows, chunk.start, window, sinks):
            for piece in group.pieces:
                for owner, part in _by_owner(piece, zigzag):
                    queries = _moved(part.queries, at)
                    found[owner].append(
                        Seen(group.rows, Piece(queries, part.keys, part.shape))
                    )
        at += size
    return found


def _by_owner(piece: Piece, zigzag: Zigzag) -> Iterator[tuple[int, Piece]]:
    """A piece whose keys are columns of the row, by the rank that holds them."""
    for number, chunk in enumerate(zigzag.chunks):
        begin = max(piece.keys.start, chunk.start)
        end = min(piece.keys.stop, chunk.stop)
        if begin >= end:
            continue
        owner = zigzag.owner(number)
        first, _ = zigzag.of(owner)
        ahead = 0 if number == owner else first.stop - first.start
        for part in _with_keys(piece, begin, end):
            yield owner, part._replace(keys=_moved(part.keys, ahead - chunk.start))


def _with_keys(piece: Piece, begin: int, end: int) -> Iterator[Piece]:
    """The part of a piece with the keys from `begin` to `end`, which it has."""
    keys, first = slice(begin, end), piece.queries.start
    if piece.shape == ALL or keys == piece.keys:
        yield Piece(piece.queries, keys, piece.shape)
        return
    # A causal piece is of a chunk's own queries, so that its keys are in one chunk.
    assert piece.shape == ANTICAUSAL, CAUSAL
    # The query at place i of the square sees the keys from place i on.
    low, high = begin - piece.keys.start, end - piece.keys.start
    if low:
        yield Piece(slice(first, first + low), keys, ALL)
    yield Piece(slice(first + low, first + high), keys, ANTICAUSAL)


def _moved(place: slice, by: int) -> slice:
    return slice(place.start + by, place.stop + by)
