"""Slots of a layer that only some tokens go through, in a cache of fixed shape."""

from __future__ import annotations

from typing import TYPE_CHECKING

import torch
from torch import Tensor

from lumina.infer.kv.kept import Kept

if TYPE_CHECKING:
    from lumina.infer.kv.static_cache import StaticCache


class ChosenSlots:
    """One layer's keys, of the tokens that went through it: a `LayerCache`.

    Attributes:
        there: [B, slots + 1] bool, slots whose token went through.
        kept: keys and values, once there are any.
    """

    def __init__(self, cache: StaticCache) -> None:
        self._cache = cache
        shape = cache.rows, cache.slots + 1
        device = cache.next_positions.device
        self.there = torch.zeros(shape, dtype=torch.bool, device=device)
        self.kept: tuple[Kept, Kept] | None = None
        self._slots = torch.empty(0)

    def forget(self, slots_bs: Tensor) -> None:
        """Nothing is there of new tokens until they go through."""
        self._mine.scatter_(1, slots_bs, False)

    def admit(self, slots_bn: Tensor, taken_bn: Tensor) -> Tensor:
        """Note which new tokens go through; returns what is there, [B, slots + 1]."""
        nowhere = self._cache.slots
        self._slots = torch.where(taken_bn, slots_bn, nowhere)
        self._mine.scatter_(1, self._slots, True)
        self._mine[:, nowhere] = False
        return self._mine

    def update(self, layer_index: int, k: Tensor, v: Tensor) -> tuple[Tensor, Tensor]:
        """Store [B, K, n, hd] of the tokens admitted; returns all, T long."""
        cache = self._cache
        if self.kept is None:
            self.kept = cache.room_for(k), cache.room_for(v)
        keys, values = (kept.part(cache.active) for kept in self.kept)
        keys.scatter(self._slots, k)
        values.scatter(self._slots, v)
        return keys.read(cache.span_read), values.read(cache.span_read)

    @property
    def _mine(self) -> Tensor:
        """`there`, of the rows of this pass."""
        return self.there[self._cache.active]
