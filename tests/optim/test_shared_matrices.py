"""Matrices divided by rows over ranks, made whole by one rank each."""

from __future__ import annotations

import threading
from typing import Any

import pytest
import torch
from torch import Tensor

from lumina.optim.orthogonal import orthogonalised
from lumina.optim.shared_matrices import made_by_owners
from lumina.parallel.mesh import RankGroup


class Threads:
    """Ranks that are threads of this process, and what they hand to each other."""

    def __init__(self, count: int) -> None:
        self.count = count
        self.barrier = threading.Barrier(count, timeout=30)
        self.held: dict[int, Tensor] = {}

    def group(self, rank: int) -> RankGroup:
        group = RankGroup(tuple(range(self.count)), rank)
        group.exchange = lambda tensor: self.exchange(rank, tensor)  # type: ignore[method-assign]
        return group

    def exchange(self, rank: int, tensor: Tensor) -> Tensor:
        self.held[rank] = tensor
        self.barrier.wait()
        found = torch.stack([self.held[other][rank] for other in range(self.count)])
        self.barrier.wait()
        return found

    def run(self, work: Any) -> list[Any]:
        found: dict[int, Any] = {}

        def one(rank: int) -> None:
            found[rank] = work(self.group(rank))

        threads = [threading.Thread(target=one, args=(r,)) for r in range(self.count)]
        for thread in threads:
            thread.start()
        for thread in threads:
            thread.join()
        return [found[rank] for rank in range(self.count)]


@pytest.mark.parametrize("ranks", [1, 2, 3, 4])
@pytest.mark.parametrize(("count", "rows"), [(1, 8), (3, 7), (8, 6), (5, 2)])
def test_each_rank_makes_its_share_and_all_get_their_rows(
    ranks: int, count: int, rows: int
) -> None:
    """Also where rows do not divide evenly, and where some ranks hold none."""
    generator = torch.Generator().manual_seed(ranks)
    whole = torch.randn(count, rows, 5, generator=generator)
    wanted = orthogonalised(whole, "quintic", 5)
    for first in range(ranks):
        shards = [one.chunk(ranks) for one in whole]

        def work(
            group: RankGroup, shards: Any = shards, first: int = first
        ) -> tuple[list[Tensor], int]:
            made = 0

            def make(matrices: Tensor) -> Tensor:
                nonlocal made
                made += len(matrices)
                assert matrices.shape[1:] == (rows, 5)
                return orthogonalised(matrices, "quintic", 5)

            mine = [
                one[group.rank] if group.rank < len(one) else one[0][:0]
                for one in shards
            ]
            return made_by_owners(mine, rows, group, make, first), made

        found = Threads(ranks).run(work)
        together = [
            torch.cat(parts) for parts in zip(*(f for f, _ in found), strict=True)
        ]
        torch.testing.assert_close(torch.stack(together), wanted)
        shares = [made for _, made in found]
        assert sum(shares) == count and max(shares) == -(-count // ranks)
        assert shares[first] == max(shares)
