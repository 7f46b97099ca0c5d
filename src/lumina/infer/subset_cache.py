"""Keys and values of a layer that only some tokens go through.

Rows fill at their own pace, so every entry carries the column of its token, and what a
query may see is decided by columns. A token that passes the layer by leaves nothing,
and what a sliding window has left behind makes room for what comes.
"""

from __future__ import annotations

import torch
from torch import Tensor

from lumina.infer.kv.kept import Keeping, Kept

SMALLEST = 32
"""Entries allocated at first."""


class ChosenKeys:
    """One layer's keys and values; a `Cache` as far as its attention is concerned.

    Attributes:
        columns: [B, C + 1] int64, the column of each entry, -1 where there is none. The
            last entry belongs to no place: what is not taken is written there.
    """

    def __init__(self, rows: int, device: torch.device, keeping: Keeping) -> None:
        self._keeping = keeping
        self.columns = torch.full((rows, SMALLEST + 1), -1, device=device)
        self._counts = torch.zeros(rows, dtype=torch.int64, device=device)
        self._most = 0
        self._slots = self.columns
        self.keys: Kept | None = None
        self.values: Kept | None = None

    @property
    def nbytes(self) -> int:
        """Bytes held for keys and values."""
        return sum(t.nbytes for t in (self.keys, self.values) if t is not None)

    def admit(self, columns_bn: Tensor, taken_bn: Tensor, oldest: int = 0) -> Tensor:
        """Make room for new tokens; returns the column of every entry, [B, T].

        Args:
            columns_bn: [B, n] int64, in the whole row; those taken rise.
            taken_bn: [B, n] bool.
            oldest: no column before it will be seen again.
        """
        self._grow(columns_bn.shape[1], oldest)
        trash = self.columns.shape[1] - 1
        slots = self._counts[:, None] + taken_bn.cumsum(dim=1) - 1
        self._slots = torch.where(taken_bn, slots, trash)
        self._counts = self._counts + taken_bn.sum(dim=1)
        self.columns.scatter_(1, self._slots, columns_bn)
        self.columns[:, trash] = -1
        return self.columns[:, : self._most]

    def update(self, layer_index: int, k: Tensor, v: Tensor) -> tuple[Tensor, Tensor]:
        """Store [B, K, n, hd] where `admit` made room; returns all, T long."""
        self.keys = self._written(self.keys, k)
        self.values = self._written(self.values, v)
        return self.keys.read(self._most), self.values.read(self._most)

    def rewind(self, length: int) -> None:
        """Forget every token from column `length` on."""
        gone = self.columns >= length
        self.columns.masked_fill_(gone, -1)
        self._counts = (self.columns >= 0).sum(dim=1)
        self._most = int(self._counts.max()) if len(self._counts) else 0

    def keep_rows(self, rows: Tensor) -> None:
        """Go on with these rows only."""
        self.columns = self.columns.index_select(0, rows)
        self._counts = self._counts.index_select(0, rows)
        if self.keys is not None and self.values is not None:
            self.keys.keep_rows(rows)
            self.values.keep_rows(rows)

    def _grow(self, new: int, oldest: int) -> None:
        """Room for `new` more entries in every row; the trash stays last."""
        self._most += new
        if self._most > self.columns.shape[1] - 1:
            if oldest:
                self._forget(oldest)
            # The bound counts places, not taken ones: read what is really there.
            self._most = int(self._counts.max()) + new
        size = self.columns.shape[1] - 1
        if self._most <= size:
            return
        more = max(self._most, 2 * size) - size
        rows = self.columns.shape[0]
        self.columns = torch.cat(
            [self.columns, self.columns.new_full((rows, more), -1)], 1
        )

    def _forget(self, oldest: int) -> None:
        """Drop the entries of columns before `oldest`; the others close up in order."""
        kept = self.columns >= oldest
        order = (~kept).to(torch.int8).argsort(dim=1, stable=True)
        self.columns = self.columns.masked_fill(~kept, -1).gather(1, order)
        self._counts = kept.sum(dim=1)
        if self.keys is not None and self.values is not None:
            self.keys.reorder(order)
            self.values.reorder(order)

    def _written(self, kept: Kept | None, new: Tensor) -> Kept:
        size = self.columns.shape[1]
        if kept is None:
            kept = Kept(new, size, self._keeping)
            kept.clear()
        elif kept.capacity < size:
            used = kept.capacity
            # The old trash lands at a place that is written before it is seen.
            kept.grow(size, used)
            kept.clear(used)
        kept.scatter(self._slots, new)
        return kept
