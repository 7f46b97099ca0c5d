"""What every cache over a pool of blocks does alike, layer by layer."""

from __future__ import annotations

import torch
from torch import Tensor

from lumina.errors import LuminaError
from lumina.infer.kv.pages import Pool
from lumina.model.cache_protocol import LayerCache


class Pooled:
    """The part of `lumina.model.cache_protocol.Cache` that the pool itself answers.

    Args:
        pool: where blocks come from.
    """

    def __init__(self, pool: Pool) -> None:
        self.pool = pool
        self._write = self._read = torch.empty(0)

    def update(self, layer_index: int, k: Tensor, v: Tensor) -> tuple[Tensor, Tensor]:
        """Adds one layer's new keys and values; returns those of the places read."""
        keys, values = self.pool.layer(layer_index, k, v)
        for kept, new in ((keys, k), (values, v)):
            kept.write(self._write.flatten(), new.transpose(0, 1).flatten(1, 2)[None])
        return keys.at(self._read), values.at(self._read)

    def holds(self, layer_index: int) -> bool:
        """Whether a layer's keys are kept; see the protocol."""
        return self.pool.holds(layer_index)

    def fork(self, layer_index: int, source: int) -> None:
        """Begins a layer with the keys of another; see the protocol."""
        self.pool.fork(layer_index, source)

    def recall(self, layer_index: int) -> dict[str, Tensor]:
        """Nothing: models that remember states are refused beforehand."""
        return {}

    def remember(self, layer_index: int, **state: Tensor) -> None:
        """Refuse to keep what rows of their own length cannot share."""
        raise _unpaged("a registered part keeps a state")

    def choose(
        self, slot: tuple[int, int], columns: Tensor, taken: Tensor
    ) -> tuple[LayerCache, Tensor]:
        """Refuse layers that tokens pass by."""
        raise _unpaged("its tokens choose their layers")


def _unpaged(why: str) -> LuminaError:
    return LuminaError(
        "E002",
        f"the model takes no paged cache: {why}",
        "leave --kv-cache-paged out",
    )
