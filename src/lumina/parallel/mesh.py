"""The ranks of a run by dimension, and the groups in which they communicate."""

from __future__ import annotations

from collections import deque
from collections.abc import Sequence
from dataclasses import astuple
from itertools import product
from math import prod

import torch
import torch.distributed as dist
from torch import Tensor

from lumina.parallel.sizes import DIMENSIONS, Sizes

WAITS = 1000
"""Waits of which the time is kept, of those that nobody has asked for yet."""


class RankGroup:
    """Ranks that work together; every method must be called by all of them.

    Attributes:
        ranks: the members' numbers among all processes, in the order of the group.
        rank: this process's place in the group, from 0.
        waits: the latest seconds that this process waited for the others where a step
            has them agree; whoever reads them may empty it.
    """

    def __init__(
        self, ranks: tuple[int, ...], rank: int, group: dist.ProcessGroup | None = None
    ) -> None:
        """Describe a group.

        Args:
            ranks: the members.
            rank: this process's place among them.
            group: their process group; None for all processes, and for one alone.
        """
        self.ranks = ranks
        self.rank = rank
        self.group = group
        self.waits: deque[float] = deque(maxlen=WAITS)

    @property
    def size(self) -> int:
        """How many ranks there are."""
        return len(self.ranks)

    def sum_(self, tensor: Tensor) -> Tensor:
        """Add over the ranks, in place; the host does not wait on a GPU."""
        if self.size > 1:
            dist.all_reduce(tensor, group=self.group)
        return tensor

    def stack(self, tensor: Tensor) -> Tensor:
        """[size, ...]: every rank's tensor, all of one shape."""
        if self.size == 1:
            return tensor[None]
        found = [torch.empty_like(tensor) for _ in range(self.size)]
        dist.all_gather(found, tensor.contiguous(), group=self.group)
        return torch.stack(found)

    def exchange(self, tensor: Tensor) -> Tensor:
        """[size, ...]: what each rank has for this one.

        Args:
            tensor: [size, ...], what this rank has for each, of one shape on all ranks.
        """
        if self.size == 1:
            return tensor
        found = torch.empty_like(tensor)
        dist.all_to_all_single(found, tensor.contiguous(), group=self.group)
        return found

    def exchange_rows(
        self, rows: Tensor, sent: Sequence[int], received: Sequence[int]
    ) -> Tensor:
        """[sum(received), ...]: rows from each rank in turn.

        Args:
            rows: [sum(sent), ...], in the order of the ranks that they are for.
            sent: how many go to each rank.
            received: how many come from each rank.
        """
        if self.size == 1:
            return rows
        found = rows.new_empty(sum(received), *rows.shape[1:])
        dist.all_to_all_single(
            found, rows.contiguous(), list(received), list(sent), group=self.group
        )
        return found

    def any_(self, flag: bool) -> bool:
        """Whether it holds on any rank; the same answer on all of them."""
        if self.size == 1:
            return flag
        # On a CPU tensor, so that the host does not wait for its GPU.
        held = torch.tensor([float(flag)])
        dist.all_reduce(held, group=self.group)
        return held.item() > 0


class Mesh:
    """The ranks of a run along the dimensions data, sequence, expert and tensor.

    Ranks are numbered with data outermost and tensor innermost. Every rank must make
    the mesh at the same time, because process groups are made together.

    Attributes:
        sizes: ranks along each dimension.
        rank: this process's number among all.
        data: the ranks that differ from this one in the rows that they read: along data
            and expert.
        sequence: those that differ in the positions of a row.
        expert: those that differ in the experts that they hold. It has a process group
            of its own, so that its messages and those of others do not get mixed up.
        tensor: those that differ in their part of a matrix.
        tokens: the ranks among which the tokens of a step are divided, so that losses
            and gradients add up over them: data, sequence and expert.
        same_experts: those of them that hold the same experts: data and sequence.
        copies: the ranks that work on the same tokens: tensor.
        everyone: all ranks.
    """

    def __init__(self, sizes: Sizes | None = None, rank: int = 0) -> None:
        """Make the groups.

        Args:
            sizes: ranks along each dimension; by default one process alone.
            rank: this process's number among all.
        """
        self.sizes = sizes or Sizes()
        self.rank = rank
        self.data = self._along("data", "expert")
        # Their messages travel beside those of the gradients, in any size of the mesh.
        self.sequence = self._along("sequence", apart=True)
        self.expert = self._along("expert", apart=True)
        self.tensor = self._along("tensor")
        self.tokens = self._along("data", "sequence", "expert")
        self.same_experts = self.tokens
        if self.sizes.expert > 1:
            self.same_experts = self._along("data", "sequence")
        self.copies = self.tensor
        self.everyone = self._along(*DIMENSIONS)

    def _along(self, *dimensions: str, apart: bool = False) -> RankGroup:
        """The ranks that differ from this one along those dimensions only.

        Args:
            dimensions: of the mesh.
            apart: they have a process group of their own even where they are all.
        """
        shape = astuple(self.sizes)
        along = [name in dimensions for name in DIMENSIONS]
        size = prod(n for n, chosen in zip(shape, along, strict=True) if chosen)
        groups: dict[tuple[int, ...], list[int]] = {}
        for number, place in enumerate(product(*map(range, shape))):
            fixed = (n for n, chosen in zip(place, along, strict=True) if not chosen)
            groups.setdefault(tuple(fixed), []).append(number)
        own = next(members for members in groups.values() if self.rank in members)
        group = None
        if 1 < size < self.sizes.total or (apart and size > 1):
            # Each process makes every group, in one order, those of others too.
            made = {n: dist.new_group(m) for m in groups.values() for n in (m[0],)}
            group = made[own[0]]
        return RankGroup(tuple(own), own.index(self.rank), group)
