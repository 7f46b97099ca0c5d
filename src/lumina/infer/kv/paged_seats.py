"""Rows of a pool whose steps have fixed shapes: each sits in a seat of one batch.

A prompt is read by itself through `PagedCache`. In a step every seat gives one token:
where its key goes and what it sees follow from the seat's block table and its next
position, which lie on the device, so a step can be recorded as a CUDA graph and serves
whichever rows sit there. Empty seats write into a block of their own that nothing sees.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager

import torch
from torch import Tensor

from lumina.infer.kv.kept import plainly
from lumina.infer.kv.paged_cache import PagedCache
from lumina.infer.kv.pages import Pool, Row
from lumina.infer.kv.pooled import Pooled
from lumina.infer.kv.sending import send
from lumina.ops.attention.beyond import Beyond
from lumina.ops.attention.masks import in_reach


class PagedSeats(Pooled):
    """Seats over a pool of blocks: the cache of a step, and the care of its rows.

    Args:
        pool: with a limit; all of its memory is taken at once, so that it never moves.
        rows: seats.
        tokens: most tokens of a row.
        sight: the window, or 0, and what stays visible beyond it.
        device: of the network.
        sharing: answers may serve later prompts that contain them. Without it only
            what was read as a prompt does, whose keys are the same to the last bit.

    Attributes:
        rows: seats of the coming step: the first ones.
        span: positions that a step reads.
        fixed_shapes: no shape may depend on what tensors hold.
        room: most tokens of a row.
        sight: as given.
    """

    def __init__(
        self,
        pool: Pool,
        rows: int,
        tokens: int,
        sight: tuple[int, Beyond],
        device: torch.device,
        sharing: bool = True,
    ) -> None:
        assert pool.limit is not None and pool.spare
        pool.reserve(pool.limit)
        super().__init__(pool)
        self.rows, self.span = rows, 0
        self.in_pieces = True  # steps of others may come between pieces of a prompt
        self.room, self.sight = tokens, sight
        self.most, self.fixed_shapes = rows, False
        self.length = 0
        self._sharing = sharing
        self._reading = PagedCache(pool, 0, *sight)
        self._seats: list[Row | None] = [None] * rows
        self._nowhere = pool.limit  # the block behind all others
        blocks = -(-tokens // pool.block)
        self._room_for_all = rows * blocks <= pool.limit
        self._table = torch.full((rows, blocks), self._nowhere, device=device)
        self._next = torch.zeros(rows, dtype=torch.int64, device=device)
        self._first = 0
        self._pos = torch.empty(0)

    # What sits where.

    def take(self, seat: int, ids: Sequence[int], spare: int = 0) -> int | None:
        """Seat a row that begins with `ids`, as far as there is room.

        Args:
            seat: an empty one.
            ids: tokens that will be read before the first step.
            spare: blocks that have to stay free besides, where they may run out.

        Returns:
            How many of them are in the cache already; None where room is lacking.
        """
        row = Row(self.pool)
        row.begin(ids)
        wanted = row.needed(len(ids) - row.length)
        if not self._room_for_all:
            wanted += spare
        available = self.pool.available
        if available is not None and wanted > available:
            row.end()
            return None
        row.reserve(len(ids) - row.length)
        self._seats[seat] = row
        return row.length

    @contextmanager
    def reading(self, seat: int, begun: bool = True) -> Iterator[PagedCache]:
        """The cache through which the row of a seat is read.

        Args:
            seat: whose row it is.
            begun: steps follow; while they do not, others' steps leave the row alone.
        """
        row = self._row(seat)
        self._reading.active = [row]
        yield self._reading
        row.settle()
        if begun:
            self._place(seat)

    def at_once(self, columns: int) -> int:
        """Tokens of a prompt in a pass, at most `columns`.

        To the last bit, keys depend on where passes begin: always with a block, then.
        """
        return columns if self._sharing else self.pool.block

    def make_room(self, seat: int, ids: Callable[[], Sequence[int]]) -> bool:
        """Have room for one more token of a seat; False where there is none.

        Args:
            seat: whose row it is.
            ids: the tokens of the row that are known, from its first on.
        """
        row = self._row(seat)
        if row.length % self.pool.block:
            return True  # its last block has room
        self._tell(row, ids())
        available = self.pool.available
        if available is not None and row.needed(1) > available:
            return False
        before = len(row.blocks), row.first
        if self._reading.window:
            row.leave_behind(row.length + 1 - self._reading.window)
        row.reserve(1)
        if (len(row.blocks), row.first) != before:
            self._place(seat)
        return True

    def count(self, seats: Sequence[int]) -> None:
        """Count the token that a step adds to each of these seats."""
        for seat in seats:
            self._row(seat).length += 1

    def leave(self, seat: int, ids: Sequence[int], whole: bool = True) -> None:
        """Give the blocks of a seat back.

        Args:
            seat: whose row is over, or has to be read again later.
            ids: the tokens of the row that are known, from its first on.
            whole: every layer has written what was read last; it can still be found.
        """
        row = self._row(seat)
        self._tell(row, ids)
        row.end(whole)
        self._seats[seat] = None
        self._table[seat] = self._nowhere
        self._next[seat] = 0

    def _tell(self, row: Row, ids: Sequence[int]) -> None:
        """Note tokens whose blocks other rows may find."""
        if self._sharing:
            row.tokens = list(ids[: row.length])

    def length_of(self, seat: int) -> int:
        """Tokens of a seat that are in the cache, or on their way into it."""
        return self._row(seat).length

    def _row(self, seat: int) -> Row:
        row = self._seats[seat]
        assert row is not None, "no answer has this seat"
        return row

    def _place(self, seat: int) -> None:
        """Let the device know a seat's blocks."""
        row = self._row(seat)
        held = [self._nowhere if block is None else block for block in row.blocks]
        held += [self._nowhere] * (self._table.shape[1] - len(held))
        send(self._table[seat], torch.tensor(held))
        self._next[seat] = row.length

    # The cache of a step.

    @property
    def nbytes(self) -> int:
        """Bytes of the pool."""
        return self.pool.nbytes

    @property
    def plainly_kept(self) -> bool:
        """Whether keys and values are held as the model computes them."""
        return self.pool.keeping == plainly()

    @contextmanager
    def only(self, seat: int) -> Iterator[None]:
        """A step of one seat alone, which reads no more than its own tokens."""
        rows, span = self.rows, self.span
        self._first, self.rows, self.span = seat, 1, self.length_of(seat) + 1
        try:
            yield
        finally:
            self._first, self.rows, self.span = 0, rows, span

    def positions(self, input_ids: Tensor) -> Tensor:
        """Positions of the coming tokens, [B, 1]; see the protocol."""
        return self._next[self._active, None].clamp(max=self.room - 1)

    def mask(self, position_ids: Tensor) -> Tensor:
        """Begins a step over one new token of each seat; [B, 1, 1, span] bool."""
        active = self._active
        assert position_ids.shape[1] == 1, "prompts are read one by one"
        table = self._table[active]
        self._pos = self._next[active, None].clamp(max=self.room - 1)
        time = torch.arange(self.span, device=table.device)
        self._read = self._columns(table, time)
        self._write = self._columns(table, self._pos, own=True)
        self._next[active] += 1
        self.length = self.span
        return in_reach(self._pos[:, None], time, 0, *self.sight)[:, None]

    def _columns(self, table: Tensor, time: Tensor, own: bool = False) -> Tensor:
        """Columns of the pool, [B, T], where the positions of rows lie.

        Where a row has no key yet, or none any more, another of its own stands: what
        memory held before may be no number, which a weight of zero would not remove.
        """
        if not own:
            window, beyond = self.sight
            first = self._pos - window + 1 if window and not beyond else self._pos * 0
            time = torch.minimum(torch.maximum(time, first), self._pos)
        size = self.pool.block
        return table.gather(1, time // size) * size + time % size

    def plain(self, layer_index: int) -> tuple[Tensor, Tensor] | None:
        """Keys and values where they lie, [1, K, columns of the pool, head_dim]."""
        if not self.pool.holds(layer_index):
            return None
        keys, values = (kept.plain for kept in self.pool.held(layer_index))
        return None if keys is None or values is None else (keys, values)

    @property
    def new_slots(self) -> Tensor:
        """[B, 1] int64: the place in the span where each new key goes."""
        return self._pos

    @property
    def columns_read(self) -> Tensor:
        """[B, span] int64: the column of the pool that each place lies in."""
        return self._read

    @property
    def _active(self) -> slice:
        return slice(self._first, self._first + self.rows)
