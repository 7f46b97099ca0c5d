"""What a run will take of the disk: checkpoints, logs, and what lives there."""

from __future__ import annotations

from lumina.parallel.table import chosen_way
from lumina.plan.compressing import compresses
from lumina.plan.count import count_exchanged, count_trainable
from lumina.plan.figures import layout_of
from lumina.plan.plan import Plan

ROW_BYTES, REPORT_BYTES = 1600, 2**20
"""A row of metrics.jsonl with everything that is measured by default, and the report
with the files beside it. Measured by `tests/plan/test_storage.py`."""


def checkpoint_bytes(plan: Plan) -> tuple[int, int]:
    """Bytes of the weights in a checkpoint, and of a whole one, estimated.

    Weights, states and averages are saved in the type they are kept in.
    """
    memory = plan.memory
    way = chosen_way(plan.parallel)
    ranks = plan.world_size if way.divides_states else 1
    layout = layout_of(plan)
    masters = layout.masters_here(plan.spec) if layout.masters_beside else 0
    whole = plan.world_size if way.sharded else 1
    weights = max(
        whole * memory["weights"], ranks * max(memory["master_weights"], masters)
    )
    if plan.spec.adapters:  # their base is elsewhere
        weights = 4 * count_trainable(plan.spec, plan.freeze)
    states = layout.states_here(plan.spec)
    return weights, weights + ranks * (states + memory["ema"]) + _errors(plan)


def _errors(plan: Plan) -> int:
    """Bytes of the errors of all ranks, where gradients are exchanged in factors.

    With the factors that the next step begins with.
    """
    if not compresses(plan):
        return 0
    found = count_exchanged(plan.spec, plan.freeze, plan.gradient_compression_rank)
    return 4 * (plan.world_size * found.apart + found.right)


def checkpoints_kept(plan: Plan) -> int:
    """Most checkpoints at a time: those kept, the best, and one being written."""
    if not plan.save_every or plan.save_every >= plan.steps:
        return 1
    saved = -(-plan.steps // plan.save_every)
    return min(plan.save_total_limit + 2, saved)


def storage(plan: Plan) -> dict[str, int]:
    """Bytes on disk by what they are, and their sum, estimated.

    Args:
        plan: what is decided.

    Returns:
        "weights", "optimizer states" and "checkpoint": of one; "checkpoints": of all
        that are there at a time; "logs"; "offload folder", twice its files, because a
        checkpoint takes over the first ones; "in all"; and "with a backup", where one
        checkpoint is copied elsewhere.
    """
    weights, whole = checkpoint_bytes(plan)
    rows = -(-plan.steps // max(1, plan.log_every))
    found = {
        "checkpoints": checkpoints_kept(plan) * whole,
        "logs": ROW_BYTES * rows + REPORT_BYTES,
        "offload folder": 2 * plan.world_size * plan.elsewhere.get("disk", 0),
    }
    total = sum(found.values())
    return {
        "weights": weights,
        "optimizer states": whole - weights,
        "checkpoint": whole,
        **found,
        "in all": total,
        "with a backup": total + whole,
    }
