"""Whether a run is going on, by its own word and by the lock of its process."""

from __future__ import annotations

import fcntl
import json
import os
from pathlib import Path


def state_of(path: Path) -> str:
    """What the run says of itself, checked against its lock."""
    if is_locked(path):
        return "running"
    try:
        status = json.loads((path / "status.json").read_text())["status"]
    except (OSError, ValueError, KeyError, TypeError):
        return "unknown"
    # It says it is running, but no process holds its lock: it was killed.
    return "killed" if status == "running" else str(status)


def is_locked(path: Path) -> bool:
    """Whether a process holds a run."""
    try:
        lock = os.open(path / ".lock", os.O_RDONLY)
    except OSError:
        return False
    try:
        fcntl.flock(lock, fcntl.LOCK_SH | fcntl.LOCK_NB)
    except BlockingIOError:
        return True
    finally:
        os.close(lock)
    return False
