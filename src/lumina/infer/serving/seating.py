"""How much is answered at once, and the cache that has room for it."""

from __future__ import annotations

from dataclasses import dataclass, replace

from lumina.errors import LuminaError
from lumina.infer.decoding.seat_step import Seats
from lumina.infer.generate import context_limit
from lumina.infer.kv.paged_seats import PagedSeats
from lumina.infer.kv.pages import Pool
from lumina.infer.kv.settings import CacheSettings, at_once, place_of
from lumina.infer.kv.static_seats import StaticSeats
from lumina.model.kinds.table import why_not
from lumina.model.network import Network


@dataclass(frozen=True)
class Limits:
    """How much is answered at once.

    Attributes:
        rows: requests answered side by side.
        tokens: of prompt and answer together.
        waiting: requests that may wait.
        cache_tokens: for which the cache has room, all rows together; 0: for all rows
            of the most tokens.
    """

    rows: int = 32
    tokens: int = 2048
    waiting: int = 256
    cache_tokens: int = 0

    def __post_init__(self) -> None:
        for name in ("rows", "tokens", "waiting"):
            if getattr(self, name) < 1:
                raise LuminaError(
                    "E005", f"{name} is {getattr(self, name)}", "give 1 or more"
                )


def seats_for(
    network: Network, limits: Limits, settings: CacheSettings, invariant: bool = False
) -> Seats:
    """A cache for rows side by side: in blocks, where the model takes that.

    Args:
        network: on its device.
        limits: how much at once.
        settings: the format, the place and the size of blocks.
        invariant: what a row gives must not depend on others to the last bit.

    Raises:
        LuminaError: E002 for a model that takes neither, and for options that do not
            go with it; E005 for a cache that cannot hold one row.
    """
    device, sight = place_of(network), settings.sight(network)
    if not why_not(network.spec, "paged_cache"):
        settings = replace(settings, paged=True)
        settings.check(network)
        pool = Pool(
            settings.keeping(), settings.block, _blocks(limits, settings), spare=True
        )
        return PagedSeats(
            pool, limits.rows, limits.tokens, sight, device, sharing=not invariant
        )
    if why := why_not(network.spec, "rows_apart"):
        raise LuminaError(
            "E002",
            f"the model answers no requests side by side: {why}",
            "use lumina generate or lumina chat",
        )
    if settings.offload or limits.cache_tokens:
        raise LuminaError(
            "E002",
            "the model's tokens choose their layers, so each request has slots of its "
            "own for a whole row, on the device",
            "leave --kv-cache-tokens and --kv-cache-offload out, or give a smaller "
            "--max-batch-size or --max-sequence-length",
        )
    settings = replace(settings, paged=False)
    settings.check(network)
    return StaticSeats(
        limits.rows,
        device,
        window=sight[0],
        beyond=sight[1],
        capacity=limits.tokens,
        keeping=settings.keeping(),
        at_once=at_once(sight[0]),
        positions_below=context_limit(network),
    )


def _blocks(limits: Limits, settings: CacheSettings) -> int:
    """Blocks of the cache.

    Raises:
        LuminaError: E005 where one row has no room.
    """
    one_row = settings.blocks(limits.tokens)
    total = limits.rows * one_row
    if limits.cache_tokens:
        total = limits.cache_tokens // settings.block
    if total < one_row:
        raise LuminaError(
            "E005",
            f"a cache of {limits.cache_tokens:,} tokens has no room for one row of "
            f"{limits.tokens:,}",
            f"give {one_row * settings.block:,} or more",
        )
    return total
