"""Whether the disk has room for the checkpoints of a run, before its first step."""

from __future__ import annotations

from pathlib import Path
from typing import Any

from lumina.durable import free_bytes
from lumina.errors import LuminaError
from lumina.parallel.table import chosen_way
from lumina.plan.count import count_trainable
from lumina.plan.make import layout_of
from lumina.plan.plan import Plan
from lumina.quantities import byte_size

SURE = 0.9
"""Part of the weights' bytes that any checkpoint takes, whatever is left out."""


def check_room(plan: Plan, folder: Path, events: list[dict[str, Any]]) -> None:
    """Refuse a run none of whose checkpoints would fit.

    Args:
        plan: what is decided.
        folder: the run's directory, which need not be there yet.
        events: gets a warning where one checkpoint fits, and not all that are kept.

    Raises:
        LuminaError: E204.
    """
    there = folder.absolute()
    while not there.exists():
        there = there.parent
    free = free_bytes(there)
    weights, whole = checkpoint_bytes(plan)
    if free < SURE * weights:
        raise LuminaError(
            "E204",
            f"a checkpoint takes about {byte_size(whole)}, and {there} has "
            f"{byte_size(free)}: what is trained could not be kept",
            "free some disk space, or name another --run-dir",
        )
    found = len(list((folder / "checkpoints").glob("step-*")))
    # Those that are kept, the best one, and the one that is being written.
    wanted = max(plan.save_total_limit + 2 - found, 1) if plan.save_every else 1
    if free < wanted * whole:
        events.append(
            {
                "kind": "little_room_on_disk",
                "severity": "warning",
                "code": None,
                "message": f"{wanted} checkpoints of about {byte_size(whole)} may be "
                f"written, and {there} has {byte_size(free)}; free some space, lower "
                "--save-total-limit, or name another --run-dir",
                "free_bytes": free,
                "checkpoint_bytes": whole,
            }
        )


def checkpoint_bytes(plan: Plan) -> tuple[int, int]:
    """Bytes of the weights in a checkpoint, and of a whole one, estimated."""
    memory = plan.memory
    ranks = plan.world_size if chosen_way(plan.parallel).sharded else 1
    weights = ranks * max(memory["weights"], memory["master_weights"])
    if plan.spec.adapters:  # their base is elsewhere
        weights = 4 * count_trainable(plan.spec, plan.freeze)
    states = layout_of(plan).states_here(plan.spec)
    return weights, weights + ranks * (states + memory["ema"])
