"""What answers in turn may share: a cache, and the step recorded over it."""

from __future__ import annotations

from lumina.infer.kv.settings import CacheSettings
from lumina.infer.kv.static_cache import StaticCache
from lumina.model.network import Network

COLUMNS = 256
"""A shared cache has slots for a multiple of this many columns."""


class Workspace:
    """Holds the cache of answers that are over, for the next ones of the same shape.

    To be owned by who asks a network several times: memory is free once it is dropped.
    """

    def __init__(self) -> None:
        self._held: tuple[tuple[object, ...], StaticCache] | None = None

    def take(
        self,
        network: Network,
        rows: int,
        columns: int,
        settings: CacheSettings | None,
    ) -> StaticCache | None:
        """The cache held, where it fits; the workspace is empty afterwards."""
        held, self._held = self._held, None
        if held is None or held[0] != _key(network, rows, settings):
            return None
        cache = held[1]
        cache.reserve(columns)
        return cache

    def give(
        self,
        network: Network,
        rows: int,
        settings: CacheSettings | None,
        cache: StaticCache,
    ) -> None:
        """Hold a cache that its answers no longer need."""
        self._held = _key(network, rows, settings), cache

    @staticmethod
    def rounded(columns: int) -> int:
        """Columns to have slots for, so that the next answers find enough."""
        return -(-columns // COLUMNS) * COLUMNS


def _key(
    network: Network, rows: int, settings: CacheSettings | None
) -> tuple[object, ...]:
    return id(network), rows, settings or CacheSettings()
