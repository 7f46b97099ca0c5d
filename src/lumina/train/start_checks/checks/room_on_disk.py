"""The disk has room for the checkpoints of the run."""

from __future__ import annotations

from pathlib import Path

from lumina.train.room_on_disk import check_room
from lumina.train.start_checks.declared import Beginning, register_check


@register_check("room_on_disk", "decided", here=True)
def check_disk(beginning: Beginning) -> None:
    """Refuse a run none of whose checkpoints would fit, on the first rank.

    Raises:
        LuminaError: E204.
    """
    prepared = beginning.prepared
    assert prepared is not None
    if beginning.ranks.main:
        folder = Path(beginning.config.run.run_dir or "runs")
        check_room(prepared.plan, folder, prepared.events)
