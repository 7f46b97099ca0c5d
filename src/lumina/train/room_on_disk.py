"""Whether the disk has room for the checkpoints of a run, before its first step."""

from __future__ import annotations

from pathlib import Path
from typing import Any

from lumina.cache_root import cache_root
from lumina.durable import free_bytes
from lumina.errors import LuminaError
from lumina.plan.plan import Plan
from lumina.plan.storage import checkpoint_bytes
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
    _check_offload(plan)
    there, free = _free(folder)
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


def _check_offload(plan: Plan) -> None:
    """Refuse files beside the device that find no room.

    Raises:
        LuminaError: E204.
    """
    wanted = plan.elsewhere.get("disk", 0) * plan.world_size
    if not wanted:
        return
    there, free = _free(Path(plan.offload_folder or cache_root()))
    if free < wanted:
        raise LuminaError(
            "E204",
            f"what lives on disk takes {byte_size(wanted)}, and {there} has "
            f"{byte_size(free)}",
            "free some disk space, or name a folder of another disk with "
            "--offload-folder",
        )


def _free(folder: Path) -> tuple[Path, int]:
    """The folder, or the nearest one above that is there, and the bytes free in it."""
    there = folder.absolute()
    while not there.exists():
        there = there.parent
    return there, free_bytes(there)
