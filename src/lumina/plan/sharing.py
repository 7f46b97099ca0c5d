"""How several processes share the work: the ways that a run may use, and why."""

from __future__ import annotations

from typing import TYPE_CHECKING

from lumina.errors import LuminaError
from lumina.parallel.table import AUTO, STAGES, alone, preferred_ways, tried_ways
from lumina.parallel.way import Conditions, Way
from lumina.plan.decisions import Decisions, source_of

if TYPE_CHECKING:
    from lumina.config import Config


def check_name(config: Config) -> None:
    """Refuse a name that no way of being parallel has.

    Raises:
        LuminaError: E005.
    """
    tried_ways(config.system.parallel)


def ways_to_share(
    config: Config, conditions: Conditions, decisions: Decisions
) -> list[type[Way]]:
    """The ways that a run may use, in the order in which they are tried.

    Raises:
        LuminaError: E005 for a name that there is not, E002 for a way that cannot be
            used in this run.
    """
    asked = config.system.parallel
    tried = tried_ways(asked)
    if conditions.sizes.total == 1:
        if asked != AUTO and tried[0].several:
            decisions.warn(f"parallel {asked} has one process: nothing is shared")
        if conditions.persistent:
            decisions.warn("stage3_param_persistence_threshold: one process is whole")
        if unused := conditions.messages_asked:
            decisions.warn(f"{', '.join(unused)}: one process sends nothing")
        return [alone()]
    refused = {way.name: way.refuses(conditions) for way in tried}
    usable = [way for way in tried if refused[way.name] is None]
    if usable:
        return usable
    others = [way.name for way in preferred_ways() if not way.refuses(conditions)]
    raise LuminaError(
        "E002",
        "; ".join(f"parallel {name} {why}" for name, why in refused.items()),
        f"use --parallel {AUTO}, or one process" if others else "use one process",
    )


def why_shared(config: Config, way: type[Way], room: str) -> str:
    """The reason of a Plan's way of being parallel.

    Args:
        config: the options.
        way: the one that was chosen.
        room: the memory that a choice may fill, in words.
    """
    if not way.several:
        return "one process"
    if config.system.parallel == STAGES:
        lower = "" if way.stage == 1 else ", and a lower stage does not fit"
        return f"stage {way.stage} of ZeRO has room in {room} on every device{lower}"
    if config.system.parallel != AUTO:
        return source_of(config, "parallel")
    if way.sharded:
        return f"a whole model on every device does not fit into {room}"
    return f"a whole model fits into {room} on every device"
