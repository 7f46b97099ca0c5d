"""Over how many processes routed experts are divided, and why."""

from __future__ import annotations

from typing import TYPE_CHECKING

from lumina.errors import LuminaError
from lumina.model.spec import ModelSpec
from lumina.plan.decisions import Decisions, source_of

if TYPE_CHECKING:
    from lumina.config import Config

FEWEST = 8
"""Experts that an automatic choice leaves each process at least.

So 32 experts on 8 GPUs are divided over 4 of them, twice. With fewer experts each, the
rows that a process gets vary more, and all processes wait for the one with the most.
"""

AUTO = "auto"


def even_sizes(experts: int, world_size: int) -> list[int]:
    """Numbers of processes that divide both the experts and all processes, rising."""
    sizes = range(1, min(experts, world_size) + 1)
    return [s for s in sizes if experts % s == 0 and world_size % s == 0]


def automatic_size(experts: int, world_size: int) -> int:
    """The most processes that divide the experts evenly and keep `FEWEST` each."""
    most = max(1, experts // FEWEST)
    return max(s for s in even_sizes(experts, world_size) if s <= most)


def decide_expert_parallel(
    config: Config, spec: ModelSpec, decisions: Decisions
) -> None:
    """Decide `expert_parallel_size` and where experts are.

    Raises:
        LuminaError: E002 where the experts cannot be divided so.
    """
    asked = config.exchange.expert_parallel_size
    world_size = decisions.values["world_size"]
    if asked == AUTO:
        size, why = _automatic(config, spec, world_size)
        if decisions.values["context_parallel"] > 1:
            size, why = 1, "processes that share rows hold every expert"
    else:
        size, why = int(asked), source_of(config, "expert_parallel_size")
        if size > 1:
            check_size(spec, size, world_size)
    decisions.decide("expert_parallel_size", size, why)
    decisions.decide(
        "expert_placement_policy",
        config.exchange.expert_placement_policy,
        source_of(config, "expert_placement_policy"),
    )


def _automatic(config: Config, spec: ModelSpec, world_size: int) -> tuple[int, str]:
    if spec.moe is None:
        return 1, "the model has no routed experts"
    if world_size == 1:
        return 1, "one process"
    if config.system.parallel not in (AUTO, "ddp"):
        return 1, f"parallel {config.system.parallel} does not divide experts"
    if config.exchange.gradient_compression != "none":
        return 1, "gradient_compression takes gradients of whole experts apart"
    experts = spec.moe.num_experts
    size = automatic_size(experts, world_size)
    if size == 1:
        return 1, f"{experts} experts on {world_size} processes stay together"
    return size, (
        f"{experts} experts on {world_size} processes: {experts // size} each, "
        f"and {FEWEST} or more"
    )


def check_size(spec: ModelSpec, size: int, world_size: int) -> None:
    """Refuse a number of processes over which experts cannot be divided evenly.

    Args:
        spec: the model.
        size: processes that hold all experts of a layer together, above 1.
        world_size: all processes.

    Raises:
        LuminaError: E002.
    """
    if world_size % size:
        raise LuminaError(
            "E002",
            f"expert_parallel_size {size} needs a multiple of {size} processes, and "
            f"there {'is' if world_size == 1 else 'are'} {world_size}",
            "start as many (--nproc), or use --expert-parallel-size 1",
        )
    if spec.moe is None:
        raise LuminaError(
            "E002",
            f"expert_parallel_size {size} divides routed experts, and the model has "
            "none",
            "use --use-moe, or leave --expert-parallel-size out",
        )
    experts = spec.moe.num_experts
    if experts % size:
        raise LuminaError(
            "E002",
            f"expert_parallel_size {size} does not divide {experts} experts evenly",
            f"use --expert-parallel-size {_below(experts, size)}, or as many experts "
            "as it divides",
        )


def _below(experts: int, size: int) -> int:
    """The largest number below `size` that divides the experts."""
    return max(n for n in range(1, size) if experts % n == 0)
