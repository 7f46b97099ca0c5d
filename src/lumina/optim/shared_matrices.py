"""Matrices of which each rank holds some rows, worked on whole by one rank each.

As distributed Muon does it (Liu et al., 2025, arXiv:2502.16982; Ahn et al., 2025,
arXiv:2504.05295): rows travel to the rank that owns the matrix, which works on the
whole of it, and the rows of the result travel back. Each rank sends and receives as
many numbers as it holds, twice, and works on its share of the matrices.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence

import torch
from torch import Tensor
from torch.nn import functional as F

from lumina.parallel.mesh import RankGroup


def made_by_owners(
    shards: Sequence[Tensor],
    rows: int,
    ranks: RankGroup,
    make: Callable[[Tensor], Tensor],
    first: int = 0,
) -> list[Tensor]:
    """What `make` gives for whole matrices, as the rows of this rank.

    Every rank must call this with the same matrices in the same order.

    Args:
        shards: of each matrix the rows on this rank, [r, columns]. The ranks hold
            consecutive rows, all but the last ones equally many (`torch.chunk`).
        rows: of a whole matrix.
        ranks: those that hold the rows.
        make: [n, rows, columns] to the same shape, each matrix by itself.
        first: the rank that owns the first matrices, which is counted on from call to
            call so that the work is even where there are fewer matrices than ranks.

    Returns:
        Of each matrix the rows on this rank, as `shards`.
    """
    size = -(-rows // ranks.size)
    here, columns = shards[0].shape
    each = -(-len(shards) // ranks.size)  # matrices that a rank owns, or one fewer
    filled = torch.stack([F.pad(one, (0, 0, 0, size - here)) for one in shards])
    missing = each * ranks.size - len(shards)
    filled = F.pad(filled, (0, 0, 0, 0, 0, missing))
    by_owner = filled.view(ranks.size, each, size, columns).roll(first, dims=0)
    mine = ranks.exchange(by_owner)  # [ranks, each, size, columns], by the sender
    whole = mine.transpose(0, 1).reshape(each, ranks.size * size, columns)
    owned = min(each, max(0, len(shards) - _place(ranks, first) * each))
    made = torch.zeros_like(whole)
    if owned:
        made[:owned, :rows] = make(whole[:owned, :rows])
    parts = made.view(each, ranks.size, size, columns).transpose(0, 1)
    back = ranks.exchange(parts.contiguous()).roll(-first, dims=0)
    return list(back.flatten(0, 1)[: len(shards), :here])


def _place(ranks: RankGroup, first: int) -> int:
    """The place of this rank among the owners."""
    return (ranks.rank - first) % ranks.size
