"""One layer's keys, or its values, in the format and the place they are kept in."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from copy import copy
from dataclasses import dataclass

import torch
from torch import Tensor

from lumina.ops.kv_formats.table import SAME, Format, find_format

Columns = slice | Tensor
"""Columns of the cache: a range, or [n] int64."""


@dataclass(frozen=True)
class Keeping:
    """How a cache keeps keys and values.

    Attributes:
        format: the number format.
        on_host: they stay in the host's memory, and a layer's are copied to the device
            while that layer runs.
    """

    format: Format
    on_host: bool = False


def plainly() -> Keeping:
    """As the model computes them, on its device."""
    return Keeping(find_format(SAME))


class Kept:
    """Vectors [B, K, C, width] in a format, of which the columns fill up in order.

    On the host the columns lie outermost, so that the first n of them are one block
    of memory, which a single copy takes to the device.

    Args:
        like: vectors [B, K, s, width] whose rows, heads, type and device these have.
        capacity: C.
        keeping: the format and the place.
    """

    def __init__(self, like: Tensor, capacity: int, keeping: Keeping) -> None:
        self._keeping = keeping
        self._width, self._dtype = like.shape[-1], like.dtype
        self._device = like.device
        self._pieces = self._room(like.shape[0], like.shape[1], capacity)

    @property
    def capacity(self) -> int:
        """C."""
        return self._pieces[0].shape[2]

    @property
    def nbytes(self) -> int:
        """Bytes of all pieces."""
        return sum(piece.nbytes for piece in self._pieces)

    def write(self, columns: Columns, new: Tensor) -> None:
        """Put [B, K, n, width] at columns that all rows share."""
        for piece, part in zip(self._pieces, self._encoded(new), strict=True):
            if isinstance(columns, Tensor):
                columns = columns.to(piece.device)
            piece[:, :, columns] = part

    def scatter(self, columns_bn: Tensor, new: Tensor) -> None:
        """Put [B, K, n, width] at columns of each row, [B, n] int64."""
        for piece, part in zip(self._pieces, self._encoded(new), strict=True):
            index = columns_bn.to(piece.device)[:, None, :, None].expand(part.shape)
            piece.scatter_(2, index, part)

    def read(self, count: int) -> Tensor:
        """The first `count` columns, [B, K, count, width], on the device."""
        pieces = tuple(
            piece[:, :, :count].to(self._device, non_blocking=True)
            for piece in self._pieces
        )
        return self._keeping.format.decode(pieces, self._width, self._dtype)

    def at(self, columns_bt: Tensor) -> Tensor:
        """Of a single row, columns [B, T] int64 as [B, K, T, width]."""
        pieces = tuple(
            piece[0, :, columns_bt.to(piece.device)]
            .transpose(0, 1)
            .to(self._device, non_blocking=True)
            for piece in self._pieces
        )
        return self._keeping.format.decode(pieces, self._width, self._dtype)

    def move(self, source: slice, target: slice) -> None:
        """Copy columns over as many others."""
        for piece in self._pieces:
            piece[:, :, target] = piece[:, :, source]

    def clear(self, begin: int = 0) -> None:
        """Zeros from a column on, where columns are read before they are written."""
        for piece in self._pieces:
            piece[:, :, begin:] = 0

    def rounded(self, new: Tensor) -> Tensor:
        """Vectors as `read` will give them once they have been written."""
        coding = self._keeping.format
        return coding.decode(coding.encode(new), self._width, self._dtype)

    def reorder(self, order_bc: Tensor) -> None:
        """Let column c of a row hold what its column `order_bc[c]` held, [B, C]."""
        self._change(
            lambda piece, order: piece.gather(
                2,
                order[:, None, :, None].expand(*piece.shape[:2], -1, piece.shape[3]),
            ),
            order_bc,
        )

    def grow(self, capacity: int, used: int) -> None:
        """Make room for this many columns; the first `used` stay as they are."""
        if capacity <= self.capacity:
            return
        rows, heads = self._pieces[0].shape[:2]
        longer = self._room(rows, heads, capacity)
        for new, old in zip(longer, self._pieces, strict=True):
            new[:, :, :used] = old[:, :, :used]
        self._pieces = longer

    def keep_rows(self, rows: Tensor) -> None:
        """Go on with these rows only, [R] int64."""
        self._change(lambda piece, kept: piece.index_select(0, kept), rows)

    def part(self, rows: slice) -> Kept:
        """Some of the rows: the same memory, for a pass over them alone."""
        if rows == slice(None):
            return self
        other = copy(self)
        other._pieces = tuple(piece[rows] for piece in self._pieces)
        return other

    @property
    def plain(self) -> Tensor | None:
        """The vectors where they lie, [B, K, C, width]; None where they are encoded."""
        whole = len(self._pieces) == 1 and self._pieces[0].dtype == self._dtype
        return self._pieces[0] if whole and not self._keeping.on_host else None

    def copy(self) -> Kept:
        """The same vectors apart from these."""
        other = copy(self)
        other._pieces = tuple(piece.clone() for piece in self._pieces)
        return other

    def _encoded(self, new: Tensor) -> list[Tensor]:
        """The pieces of new vectors, in the place of those held.

        The copy to the host is waited for: the processor may move what is there.
        """
        device = self._pieces[0].device
        return [part.to(device) for part in self._keeping.format.encode(new)]

    def _change(self, change: Callable[[Tensor, Tensor], Tensor], by: Tensor) -> None:
        changed = []
        for piece in self._pieces:
            value = change(piece, by.to(piece.device))
            if self._keeping.on_host:
                value = self._empty(value.shape, value.dtype).copy_(value)
            changed.append(value)
        self._pieces = tuple(changed)

    def _room(self, rows: int, heads: int, capacity: int) -> tuple[Tensor, ...]:
        """Pieces that nothing has been written to."""
        kinds = self._keeping.format.pieces(self._width, self._dtype)
        return tuple(
            self._empty((rows, heads, capacity, width), kind) for width, kind in kinds
        )

    def _empty(self, shape: Sequence[int], kind: torch.dtype) -> Tensor:
        """[B, K, C, width], in the host's memory with the columns outermost."""
        if not self._keeping.on_host:
            return torch.empty(tuple(shape), dtype=kind, device=self._device)
        rows, heads, columns, width = shape
        pinned = self._device.type == "cuda"
        held = torch.empty((columns, rows, heads, width), dtype=kind, pin_memory=pinned)
        return held.permute(1, 2, 0, 3)
