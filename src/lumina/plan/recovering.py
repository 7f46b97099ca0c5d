"""What a run keeps in memory to go back to, and what it checks on the way."""

from __future__ import annotations

from typing import TYPE_CHECKING

from lumina.errors import LuminaError
from lumina.parallel.table import chosen_way
from lumina.plan.decisions import Decisions, source_of
from lumina.quantities import byte_size

if TYPE_CHECKING:
    from lumina.config import Config
    from lumina.plan.environment import Environment

SHARE = 0.25
"""Most of the host's memory that snapshots may take."""

HELD = ("weights", "master_weights", "optimizer", "ema", "base_weights")
"""Components of the memory of a device that a snapshot holds."""

OFTEN, SELDOM = 5, 100
"""The fewest and the most steps between two snapshots that no option sets."""

GOOD_AFTER = 100
"""Steps without an alarm after which a snapshot is known to be good."""


def decide_recovery(config: Config, machine: Environment, decisions: Decisions) -> None:
    """Decide `Plan.recovery`, which is empty where nothing is kept or checked.

    Raises:
        LuminaError: E202 where the host has no memory for two snapshots that were
            asked for.
    """
    asked, found = config.recovery, dict[str, int]()
    every, why = asked.snapshot_every, source_of(config, "snapshot_every")
    steps = int(decisions.values["steps"])
    if every is None and config.adaptive.adaptive == "on":
        every, why = min(max(steps // 20, OFTEN), SELDOM), "adaptive is on"
    if every:
        size = snapshot_bytes(decisions)
        room = int(SHARE * machine.host_memory_bytes)
        most = min(asked.snapshots_kept, room // max(size, 1))
        said = f"{byte_size(size)} each, of {byte_size(room)} for them in host memory"
        if most < 2 and asked.snapshot_every:
            raise LuminaError(
                "E202",
                f"two snapshots do not fit into host memory: {said}",
                "leave --snapshot-every out; checkpoints on disk can be gone back to",
            )
        if most < 2:
            why = f"no snapshots: {said}"
        else:
            found = {
                "snapshot_every": every,
                "snapshots": most,
                "good_after": asked.known_good_after
                or min(GOOD_AFTER, max(steps // 10, 1)),
            }
            why = f"{why}; {said}"
    if asked.repeat_check_every:
        found["repeat_every"] = asked.repeat_check_every
        why += "; gradients are computed again now and then"
    decisions.decide("recovery", found, why)


def snapshot_bytes(decisions: Decisions) -> int:
    """Bytes of one snapshot on a machine, over all its processes."""
    memory, values = decisions.values["memory"], decisions.values
    way = chosen_way(values["parallel"])
    # Each process that holds a part of something holds only that part.
    divided = set(HELD) if way.divides_states else set()
    if not way.sharded:
        divided.discard("weights")
    return sum(
        int(memory.get(name, 0)) * (int(values["world_size"]) if name in divided else 1)
        for name in HELD
    )
