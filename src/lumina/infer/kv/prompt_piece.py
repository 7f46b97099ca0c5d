"""A piece of one prompt over a pool, in a pass whose shapes are few.

The piece stands at the right of a number of columns, and the keys it sees within a
span; both are powers of two. What is in front of it writes into the block that nothing
sees. Where everything lies is told to the device beforehand, in one copy, so that a
pass can be recorded and serves any prompt.
"""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import Tensor

from lumina.infer.kv.pages import Pool, Row
from lumina.infer.kv.pooled import Pooled
from lumina.infer.kv.sending import send
from lumina.infer.kv.static_cache import SPAN
from lumina.ops.attention.beyond import Beyond
from lumina.ops.attention.masks import in_reach

FEWEST = 16
"""Columns of the shortest piece."""


class PromptPiece(Pooled):
    """The cache of a pass over one piece of a prompt.

    Args:
        pool: with a limit, and a block behind all others.
        sight: the window, or 0, and what stays visible beyond it.
        room: most tokens of a row.
        most: most tokens of a piece.
        device: of the network.

    Attributes:
        columns: of the coming pass.
        span: positions that it reads.
        fixed_shapes: no shape may depend on what tensors hold.
        length: as of the protocol.
    """

    def __init__(
        self,
        pool: Pool,
        sight: tuple[int, Beyond],
        room: int,
        most: int,
        device: torch.device,
    ) -> None:
        assert pool.limit is not None and pool.spare
        super().__init__(pool)
        self.columns = self.span = self.length = 0
        self.fixed_shapes = False
        self._sight, self._most = sight, _rounded(most, FEWEST)
        self._blocks = -(-room // pool.block)
        # Where the piece begins, where it ends, the row's blocks, token ids.
        size = 2 + self._blocks + self._most
        self._told = torch.zeros(size, dtype=torch.int64, device=device)

    def begin(self, row: Row, ids: Sequence[int]) -> None:
        """Take room for a piece, and tell the device where it lies.

        Args:
            row: whose tokens they are; its first ones are in the cache.
            ids: of the piece, one at least.

        Raises:
            MemoryError: as of `Row.extend`.
        """
        window, beyond = self._sight
        if window and not beyond:
            row.leave_behind(row.length - window + 1)
        if len(row.tokens) >= row.length:
            row.tokens[row.length :] = ids
        begin = row.extend(len(ids))
        end = begin + len(ids)
        nowhere = self.pool.limit or 0
        held = [nowhere if block is None else block for block in row.blocks]
        held += [nowhere] * (self._blocks - len(held))
        before = [0] * (self._most - len(ids))
        send(self._told, torch.tensor([begin, end, *held, *before, *ids]))
        self.columns, self.span = _rounded(len(ids), FEWEST), _rounded(end, SPAN)

    @property
    def ids(self) -> Tensor:
        """[1, columns] int64: the piece, and token 0 in front of it."""
        return self._told[None, -self.columns :]

    def positions(self, input_ids: Tensor) -> Tensor:
        """Positions of the columns, [1, s]; what is in front counts as the first."""
        return self._own()[0][None]

    def mask(self, position_ids: Tensor) -> Tensor:
        """Begins the pass; [1, 1, columns, span] bool."""
        size, table_1n = self.pool.block, self._told[None, 2 : 2 + self._blocks]
        (begin, end), (window, beyond) = self._told[:2].split(1), self._sight
        own, there = self._own()
        place = table_1n.gather(1, own[None] // size) * size + own % size
        nowhere = (self.pool.limit or 0) * size
        self._write = torch.where(there, place, nowhere)
        time = torch.arange(self.span, device=own.device)
        first = begin * 0
        if window and not beyond:
            first = (begin - window + 1).clamp(min=0)
        # Where a row has no key, another of its own stands, which is a number.
        held = torch.minimum(torch.maximum(time, first), end - 1)
        self._read = table_1n.gather(1, held[None] // size) * size + held % size
        self.length = self.span
        return in_reach(own[:, None], time, 0, *self._sight)[None, None]

    def _own(self) -> tuple[Tensor, Tensor]:
        """Positions [columns], and which of them are of the piece, bool."""
        begin, end = self._told[:2].split(1)
        place = end - self.columns + torch.arange(self.columns, device=end.device)
        return torch.maximum(place, begin), place >= begin


def _rounded(count: int, least: int) -> int:
    """The next power of two, times `least`."""
    while least < count:
        least *= 2
    return least
