"""How far a machine reaches: the longest row, and the most rows of a forward."""

from __future__ import annotations

from collections.abc import Callable
from typing import TYPE_CHECKING

from lumina.config.provenance import Source
from lumina.errors import LuminaError
from lumina.plan.decisions import asked_for
from lumina.plan.environment import Environment
from lumina.plan.layout_choice import smallest_layout_fits
from lumina.plan.shape import resolve_spec

if TYPE_CHECKING:
    from lumina.config import Config

STEP = 256
"""Lengths of rows are multiples of this many tokens."""

LONGEST = 2**23
"""No longer row is looked for: 8M tokens."""

MOST_ROWS = 4096
"""No larger forward is looked for."""

TRIED = Source("decided", "tried by the planner")
"""Of values that the planner tries out."""


def with_few_rows(config: Config, world_size: int) -> Config:
    """The settings with one row for each process where no batch is named."""
    if asked_for(config, "global_batch_size"):
        return config
    return config.override({"global_batch_size": world_size}, TRIED)


def longest_row(
    config: Config,
    machine: Environment,
    *,
    vocab_size: int | None,
    world_size: int = 1,
    limit: int = LONGEST,
) -> int:
    """The most tokens that a row can have, so that a step fits; 0 where none fits.

    Blocks are recomputed, and one row is in a forward, where that is needed; what the
    settings name stays as it is.

    Args:
        config: the settings; a batch that they do not name is one row for each process.
        machine: what trains.
        vocab_size: tokens of the tokenizer; None: the settings say it.
        world_size: processes that train together.
        limit: the most that is looked for, such as the positions of a pretrained model.
    """
    config = with_few_rows(config, world_size)
    if not asked_for(config, "batch_size"):
        config = config.override({"batch_size": None}, TRIED)

    def fits(units: int) -> bool:
        changed = {"seq_length": units * STEP}
        return _fits(config.override(changed, TRIED), machine, vocab_size, world_size)

    return _most(fits, limit // STEP) * STEP


def most_rows(
    config: Config,
    machine: Environment,
    *,
    vocab_size: int | None,
    world_size: int = 1,
) -> int:
    """The most rows that a forward can have, so that a step fits; 0 where none fits.

    Args: as of `longest_row`.
    """

    def fits(rows: int) -> bool:
        changed = {"batch_size": rows, "global_batch_size": rows * world_size}
        return _fits(config.override(changed, TRIED), machine, vocab_size, world_size)

    return _most(fits, MOST_ROWS)


def _fits(
    config: Config, machine: Environment, vocab_size: int | None, world_size: int
) -> bool:
    try:
        spec = resolve_spec(config, vocab_size)
        return smallest_layout_fits(config, machine, spec, world_size)
    except LuminaError as error:
        if error.code in ("E201", "E202", "E203"):
            return False
        raise


def _most(fits: Callable[[int], bool], limit: int) -> int:
    """The largest number up to `limit` that fits, where smaller ones fit too."""
    low, high = 0, 1
    while high <= limit and fits(high):
        low, high = high, 2 * high
    high = min(high, limit + 1)
    while high - low > 1:
        middle = (low + high) // 2
        if fits(middle):
            low = middle
        else:
            high = middle
    return low
