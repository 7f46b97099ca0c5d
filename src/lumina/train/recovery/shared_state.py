"""A State whose tensors lie on several ranks, as the source of a Program's."""

from __future__ import annotations

from typing import Any

import torch
import torch.distributed as dist
from torch import Tensor

from lumina.assemble.ranks import Ranks
from lumina.assemble.source import Source, StateSource
from lumina.state.state import State

_WEIGHTS = ""
"""The slot of weights and buffers."""


class SharedState:
    """A State of which each rank has some tensors: the `Source` of a Program.

    Every rank makes one, and reads the same tensors in the same order: the rank that
    has a tensor sends it to the others.

    Args:
        state: with the tensors of this rank.
        ranks: this process's place.
    """

    def __init__(self, state: State, ranks: Ranks) -> None:
        self._rank = ranks.rank
        slots = {_WEIGHTS: state.tensors, **state.optimizer}
        self._own = {(s, n): t for s, held in slots.items() for n, t in held.items()}
        shapes = {key: (tuple(t.shape), t.dtype) for key, t in self._own.items()}
        everywhere: list[Any] = [None] * ranks.world_size
        dist.all_gather_object(everywhere, shapes)
        self._held: dict[tuple[str, str], tuple[int, tuple[int, ...], torch.dtype]] = {}
        for rank, found in enumerate(everywhere):
            for key, (shape, dtype) in found.items():
                self._held.setdefault(key, (rank, shape, dtype))

    def names(self) -> list[str]:
        """Logical names of the weights and persistent buffers."""
        return self.optimizer_names(_WEIGHTS)

    def tensor(self, name: str) -> Tensor:
        """A weight or buffer, whole, on the CPU."""
        return self.optimizer_tensor(_WEIGHTS, name)

    def optimizer_names(self, slot: str) -> list[str]:
        """Logical names that a slot holds."""
        return sorted(name for held, name in self._held if held == slot)

    def optimizer_tensor(self, slot: str, name: str) -> Tensor:
        """A state or average, whole, on the CPU."""
        owner, shape, dtype = self._held[slot, name]
        value = torch.empty(shape, dtype=dtype)
        if owner == self._rank:
            value.copy_(self._own[slot, name])
        dist.broadcast(value, src=owner)
        return value


def source_of(state: State, ranks: Ranks) -> Source:
    """Where a Program's tensors come from; all ranks call it together.

    Args:
        state: with the tensors of this rank, which may still be under way.
        ranks: this process's place.
    """
    state.arrived()
    return StateSource(state) if ranks.world_size == 1 else SharedState(state, ranks)
