"""The cache of `lumina.model.cache_protocol.Cache` over a pool of blocks.

Rows lie in the pool one by one, without padding, and every row has its own length. The
prompts of a batch are read row by row, so that a beginning which several rows share is
read once; after that all rows go on together.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence

import torch
from torch import Tensor

from lumina.infer.kv.pages import Pool, Row
from lumina.infer.kv.pooled import Pooled
from lumina.ops.attention.beyond import NOTHING, Beyond
from lumina.ops.attention.masks import in_reach


class PagedCache(Pooled):
    """Keys and values of rows in a pool.

    Args:
        pool: where blocks come from; it may serve other caches too.
        rows: how many rows to begin with.
        window: 0, or the sliding window in tokens; blocks that no query will see
            again go back to the pool.
        beyond: what stays visible beyond the window; then all keys are kept.

    Attributes:
        active: the rows of the coming forward pass, in order.
        length: T of the pass: keys that `update` returns.
    """

    def __init__(
        self, pool: Pool, rows: int = 1, window: int = 0, beyond: Beyond = NOTHING
    ) -> None:
        super().__init__(pool)
        self.window = 0 if beyond else window
        self._sight = (window, beyond) if beyond else None
        self.active = [Row(pool) for _ in range(rows)]
        self.length = 0

    @property
    def nbytes(self) -> int:
        """Bytes of the pool."""
        return self.pool.nbytes

    def read_prompts(
        self, prompts: Sequence[Sequence[int]], columns: int, device: torch.device
    ) -> Iterator[tuple[Tensor, bool]]:
        """What to run through the network so that the cache holds prompts.

        Args:
            prompts: of the rows; the cache may hold the first tokens of some.
            columns: most tokens of a row at a time.
            device: of the network.

        Yields:
            Token ids [rows, s], and whether their last logits are those of a prompt's
            end, in the order of the rows.
        """
        rows = self.active
        try:
            for row, prompt in zip(rows, prompts, strict=True):
                if not row.length:
                    row.begin(prompt)
                self.active = [row]
                ids = torch.tensor([list(prompt[row.length :])], device=device)
                chunks = ids.split(columns, dim=1)
                for number, chunk in enumerate(chunks, 1):
                    yield chunk, number == len(chunks)
                row.settle()
        finally:
            self.active = rows

    def positions(self, input_ids: Tensor) -> Tensor:
        """Positions of the coming tokens, [B, s]; see the protocol."""
        for row, ids in zip(self.active, input_ids.tolist(), strict=True):
            if len(row.tokens) >= row.length:
                row.tokens[row.length :] = ids
        begins = torch.tensor([row.length for row in self.active])
        new = torch.arange(input_ids.shape[1])
        return (begins[:, None] + new).to(input_ids.device)

    def mask(self, position_ids: Tensor) -> Tensor | None:
        """Begins a forward pass over s new tokens of each active row."""
        new, device, size = position_ids.shape[1], position_ids.device, self.pool.block
        if self.window:
            for row in self.active:
                row.leave_behind(row.length - self.window + 1)
        begins = torch.tensor([row.extend(new) for row in self.active])
        firsts = torch.tensor([row.first for row in self.active])
        most = max(len(row.blocks) for row in self.active)
        table = torch.tensor(
            [
                [block or 0 for block in row.blocks] + [0] * (most - len(row.blocks))
                for row in self.active
            ]
        )
        query_bs = begins[:, None] + torch.arange(new)
        self.length = int((begins - firsts).max()) + new
        key_bt = firsts[:, None] + torch.arange(self.length)
        # Where a shorter row has no key, one of its own stands: finite, never seen.
        held_bt = torch.minimum(key_bt, begins[:, None] + new - 1)
        self._write, self._read = (
            (table.gather(1, place // size) * size + place % size).to(device)
            for place in (query_bs, held_bt)
        )
        query, key = query_bs[:, :, None], key_bt[:, None, :]
        seen = key <= query
        if self._sight is not None:
            seen = in_reach(query, key, 0, *self._sight)
        if self.window:
            seen &= query - key < self.window
        one_length = int((begins - firsts).min()) + new == self.length
        hides = self.window or self._sight is not None
        if one_length and (seen.all() or not hides):
            return None  # the queries are the last of the keys and see all before
        return seen.unsqueeze(1).to(device)

    def rewind(self, length: int) -> bool:
        """Forgets all but the first `length` tokens of every row.

        Returns:
            False, with nothing forgotten, where a window has left a block behind that
            the next token would have to see.
        """
        for row in self.active:
            oldest = max(length - self.window + 1, 0) if self.window else 0
            if length and row.first > oldest:
                return False
        for row in self.active:
            row.shorten(length)
        self.length = length
        return True

    def keep_rows(self, rows: Tensor) -> None:
        """Goes on with these rows only, [R] int64; the others' blocks are free."""
        kept = [self.active[index] for index in rows.tolist()]
        for row in self.active:
            if row not in kept:
                row.end()
        self.active = kept
