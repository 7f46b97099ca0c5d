"""How many ranks share each row: what is asked for, or what very long rows need."""

from __future__ import annotations

from typing import TYPE_CHECKING

from lumina.errors import LuminaError
from lumina.features import FEATURES
from lumina.model.spec import ModelSpec
from lumina.parallel.sizes import Sizes
from lumina.parallel.table import tried_ways
from lumina.plan.decisions import Decisions, source_of
from lumina.plan.expert_parallel import decide_expert_parallel

if TYPE_CHECKING:
    from lumina.config import Config

LONG = 2**18
"""Tokens of a row, 256K; several ranks share longer rows where no option says more."""


def decide_ranks(
    config: Config, spec: ModelSpec, world_size: int, decisions: Decisions
) -> None:
    """The ranks of a Plan along each dimension: rows' shares, then those of experts.

    Args:
        config: what was asked for.
        spec: the model's shape.
        world_size: processes that train together.
        decisions: takes the fields, and why rows are whole where they are long.

    Raises:
        LuminaError: E002 for a number that does not divide the processes, or of parts
            that a row has too few tokens for, or where experts cannot be divided so.
    """
    decisions.decide("world_size", world_size, "processes that were started")
    ranks, why = context_ranks(config, spec, world_size)
    left_whole = config.long_rows.context_parallel is None and ranks == 1
    if left_whole and world_size > 1 and spec.seq_length > LONG:
        decisions.warn(why)
    decisions.decide("context_parallel", ranks, why)
    decide_expert_parallel(config, spec, decisions)


def context_ranks(config: Config, spec: ModelSpec, world_size: int) -> tuple[int, str]:
    """Ranks that share each row, and why; arguments and errors as of `decide_ranks`."""
    asked, length = config.long_rows.context_parallel, spec.seq_length
    if asked is not None:
        _check(asked, length, world_size)
        return asked, source_of(config, "context_parallel")
    if length <= LONG:
        return 1, f"rows of at most {LONG:,} tokens are whole on each process"
    if world_size == 1:
        return 1, "one process"
    why = _unfit(config, spec)
    if why:
        return 1, f"rows of {length:,} tokens are not divided over processes: {why}"
    divisors = (n for n in range(2, world_size + 1) if world_size % n == 0)
    ranks = next((n for n in divisors if length <= n * LONG), world_size)
    return ranks, f"rows of {length:,} tokens are longer than {LONG:,}"


def _check(asked: int, length: int, world_size: int) -> None:
    if world_size % asked:
        raise LuminaError(
            "E002",
            f"context_parallel {asked}: {world_size} "
            f"process{'es' if world_size > 1 else ''} cannot be divided into groups of "
            f"{asked} that share each row",
            f"start a multiple of {asked} processes (--nproc), or use another "
            "--context-parallel",
        )
    if asked > 1 and length < 2 * asked:
        raise LuminaError(
            "E002",
            f"context_parallel {asked} cuts each row into {2 * asked} chunks, and a "
            f"row has {length} tokens",
            f"use --seq-length {2 * asked} or more, or a smaller --context-parallel",
        )


def _unfit(config: Config, spec: ModelSpec) -> str:
    """Why a run's rows cannot be divided; "" where they can be."""
    for exclusion in FEATURES["context_parallel"].excludes:
        other = FEATURES[exclusion.feature]
        of_shape = other.of_shape is not None and other.of_shape(spec)
        if of_shape or other.is_requested(config):
            return f"{other.name}: {exclusion.reason}"
    if config.system.attention not in ("auto", "blockwise"):
        return f"attention {config.system.attention} knows no keys of other processes"
    if spec.attention_dilation:
        return "attention_dilation has no pieces that processes could exchange"
    if not any(way.synchronised for way in tried_ways(config.system.parallel)):
        return f"parallel {config.system.parallel} has each process train by itself"
    return ""


def sizes_of(decisions: Decisions) -> Sizes:
    """Ranks along each dimension of the mesh, of a Plan that is being made."""
    values = decisions.values
    return Sizes.of(
        values["world_size"],
        sequence=values["context_parallel"],
        expert=values["expert_parallel_size"],
    )
