"""A restart, as the run that goes on reports it."""

from __future__ import annotations

import os
import time
from pathlib import Path
from typing import Any

from lumina import heartbeat
from lumina.quantities import duration
from lumina.state.events import read_events
from lumina.train.recorder import Recorder


def tell_restart(recorder: Recorder, folder: Path, step: int) -> None:
    """Record that this process goes on where another one failed, and what that cost.

    The steps that are lost are those after the checkpoint, which are done again. The
    seconds are those since that checkpoint's last step: the time of the lost steps, of
    the failure and its discovery, and of the new start.

    Args:
        recorder: takes the event.
        folder: the run's directory.
        step: completed steps where the run goes on.
    """
    found = _by_supervisor() or _by_torchrun()
    if found is None or recorder.events is None:
        return
    failed = max(found["failed_step"], _furthest(folder), step)
    since = recorder.last_row.get("time") or _begun(folder)
    seconds = max(time.time() - since, 0.0) if since else None
    lost = failed - step
    cost = f"{lost:,} {'step' if lost == 1 else 'steps'}"
    if seconds is not None:
        cost += f" and {duration(seconds)}"
    recorder.event(
        "restarted",
        "warning",
        None,
        f"restart {found['number']} by {found['by']}, because {found['cause']}: the "
        f"run goes on after step {step:,}; {cost} are lost",
        step=step,
        number=found["number"],
        by=found["by"],
        cause=found["cause"],
        failed_step=failed,
        steps_lost=lost,
        seconds_lost=seconds,
    )


def _by_supervisor() -> dict[str, Any] | None:
    told = heartbeat.told("restart")
    if not told:
        return None
    return {
        "by": "the supervisor",
        "number": told["number"],
        "cause": told["cause"],
        "failed_step": told["step"],
    }


def _by_torchrun() -> dict[str, Any] | None:
    """The restarts of torchrun's agent, which says how many there were but not why."""
    number = os.environ.get("TORCHELASTIC_RESTART_COUNT", "0")
    if not number.isdigit() or not int(number):
        return None
    return {
        "by": "torchrun",
        "number": int(number),
        "cause": "a process of the run ended",
        "failed_step": -1,
    }


def _furthest(folder: Path) -> int:
    """The last step that an event reports; rows after the checkpoint are gone."""
    steps = [event.get("step") for event in _events(folder)]
    return max((step for step in steps if isinstance(step, int)), default=-1)


def _begun(folder: Path) -> float | None:
    """When the run began."""
    return next((event.get("time") for event in _events(folder)), None)


def _events(folder: Path) -> list[dict[str, Any]]:
    path = folder / "events.jsonl"
    return read_events(path) if path.exists() else []
