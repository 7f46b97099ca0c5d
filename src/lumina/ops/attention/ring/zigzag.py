"""Which columns of a row each rank of a ring holds.

A row is cut into twice as many chunks as there are ranks, and rank r holds the r-th
from the front and the r-th from the back. Under causal order each rank then has as many
pairs of a query and a key as any other, with each other rank's keys, too (Zhu, 2024,
ring-flash-attention's zigzag; Llama Team, 2024, arXiv:2407.21783, section 3.3.2).
"""

from __future__ import annotations

from dataclasses import dataclass
from itertools import pairwise

import torch
from torch import Tensor


@dataclass(frozen=True)
class Zigzag:
    """Rows of one length over some ranks.

    Attributes:
        length: columns of a whole row, at least two for each rank. Where they cannot be
            divided evenly, chunks differ by one column.
        ranks: that share each row.
    """

    length: int
    ranks: int

    def __post_init__(self) -> None:
        if self.length < 2 * self.ranks:
            raise ValueError(f"{self.length} columns over {self.ranks} ranks")

    @property
    def chunks(self) -> list[slice]:
        """All chunks, in the order of the row."""
        count = 2 * self.ranks
        bounds = [number * self.length // count for number in range(count + 1)]
        return [slice(*both) for both in pairwise(bounds)]

    def owner(self, chunk: int) -> int:
        """The rank that holds a chunk."""
        return min(chunk, 2 * self.ranks - 1 - chunk)

    def of(self, rank: int) -> tuple[slice, slice]:
        """The chunks of a rank; its part of a row has the first before the second."""
        chunks = self.chunks
        return chunks[rank], chunks[-1 - rank]

    def size(self, rank: int) -> int:
        """Columns of a rank's part."""
        return sum(chunk.stop - chunk.start for chunk in self.of(rank))

    def part(self, x_bs: Tensor, rank: int) -> Tensor:
        """A rank's part of rows [B, S, ...], in memory of its own."""
        return torch.cat([x_bs[:, chunk] for chunk in self.of(rank)], dim=1)

    def whole(self, parts: list[Tensor]) -> Tensor:
        """Rows [B, S, ...] from the parts of all ranks: the inverse of `part`."""
        fronts, backs = [], []
        for rank, part in enumerate(parts):
            first, _ = self.of(rank)
            size = first.stop - first.start
            fronts.append(part[:, :size])
            backs.append(part[:, size:])
        return torch.cat([*fronts, *reversed(backs)], dim=1)
