"""A supervisor is a process, which the command starts and Python does not."""

from __future__ import annotations

import os

from lumina import heartbeat
from lumina.errors import LuminaError
from lumina.train.start_checks.declared import Beginning, register_check


@register_check("supervised", "asked", here=True)
def check_supervised(beginning: Beginning) -> None:
    """Refuse a run that is to be supervised, and has no supervisor.

    Raises:
        LuminaError: E002.
    """
    if not beginning.config.supervisor.supervise or heartbeat.watched():
        return
    if "WORLD_SIZE" in os.environ:
        raise LuminaError(
            "E002",
            "supervise was asked for, and a launcher has started this process "
            "(WORLD_SIZE): two would restart it",
            "leave --supervise out; torchrun restarts with --max-restarts, and "
            "--auto-resume goes on with the run",
        )
    if beginning.planning:
        return  # the command starts it
    raise LuminaError(
        "E002",
        "supervise was asked for in Python, which trains in its own process",
        "use `lumina train --supervise`, or leave it out",
    )
