"""Sign descent on the vectors of the puzzles in a batch, as sapientinc/HRM does it.

A puzzle is seen so seldom that moments would be empty; of Adam's first step only the
sign is left. Nothing is kept beside the vectors.
"""

from __future__ import annotations

import torch
import torch.distributed as dist
from torch import Tensor


class SignSGD:
    """The optimizer of a table of vectors, of which a step uses a few.

    Args:
        weight: [N, D] float32, whole on every rank.
        rate: peak learning rate, over the peak rate of the other weights.
        weight_decay: decoupled, of the vectors that are used only.
        world_size: ranks whose batches make one step.
    """

    def __init__(
        self, weight: Tensor, *, rate: float, weight_decay: float, world_size: int = 1
    ) -> None:
        self.weight = weight
        self.rate = rate
        self.weight_decay = weight_decay
        self.world_size = world_size
        self._used: list[tuple[Tensor, Tensor]] = []
        self._sorted_ids = self._sums = torch.empty(0)

    def use(self, ids: Tensor, vectors: Tensor) -> None:
        """Note what a forward used.

        Args:
            ids: [B] int64.
            vectors: [B, D] the leaf whose gradient the backward pass fills.
        """
        self._used.append((ids, vectors))

    @torch.no_grad()
    def gather(self) -> Tensor:
        """Add up the gradients of every vector, over all forwards and ranks.

        Returns:
            [] float32, 1.0 where one of them is not finite.
        """
        ids = torch.cat([ids for ids, _ in self._used])
        gradients = torch.cat([_gradient(vectors) for _, vectors in self._used])
        self._used.clear()
        if self.world_size > 1:
            ids, gradients = (_from_all(x, self.world_size) for x in (ids, gradients))
        # One after the other in float64: the same sign each time and on every rank.
        self._sorted_ids, order = ids.sort(stable=True)
        begins = self._sorted_ids[1:] != self._sorted_ids[:-1]
        slot = torch.cat([begins.new_zeros(1), begins]).cumsum(0)
        lengths = torch.zeros_like(slot).index_add_(0, slot, torch.ones_like(slot))
        sums = torch.segment_reduce(
            gradients[order].double(), "sum", lengths=lengths, initial=0.0, unsafe=True
        )
        self._sums = sums[slot]
        return 1.0 - torch.isfinite(self._sums).all().float()

    @torch.no_grad()
    def step(self, rate: Tensor, skip: Tensor) -> None:
        """Update the vectors that were used; the others do not change.

        Args:
            rate: [] float32, the other weights' learning rate of this step.
            skip: [] float32, 1.0 where nothing may change.
        """
        rate = rate * self.rate
        old = self.weight[self._sorted_ids]
        kept = old * (1.0 - rate * self.weight_decay)
        moved = (kept - rate * self._sums.sign()).to(old.dtype)
        # A vector used twice stands here twice, with the same value.
        self.weight.index_copy_(0, self._sorted_ids, torch.where(skip > 0, old, moved))


def _gradient(vectors: Tensor) -> Tensor:
    return torch.zeros_like(vectors) if vectors.grad is None else vectors.grad


def _from_all(tensor: Tensor, ranks: int) -> Tensor:
    """The ranks' rows, one after the other."""
    parts = [torch.empty_like(tensor) for _ in range(ranks)]
    dist.all_gather(parts, tensor.contiguous())
    return torch.cat(parts)
