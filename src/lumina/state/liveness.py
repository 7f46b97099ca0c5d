"""Whether a run is going on, by its own word and by the locks of its processes."""

from __future__ import annotations

import contextlib
import fcntl
import json
import os
from pathlib import Path

_LOCK, _SUPERVISED = ".lock", ".supervised"


def state_of(path: Path) -> str:
    """What the run says of itself, checked against its locks.

    "restarting" means that nothing trains and a supervisor will start it again.
    """
    if is_locked(path):
        return "running"
    if is_locked(path, _SUPERVISED):
        return "restarting"
    try:
        status = json.loads((path / "status.json").read_text())["status"]
    except (OSError, ValueError, KeyError, TypeError):
        return "unknown"
    # It says it is running, but no process holds its lock: it was killed.
    return "killed" if status == "running" else str(status)


def supervise(path: Path) -> int | None:
    """Show that a supervisor looks after a run, until it closes what this returns.

    Returns:
        The lock's file descriptor; None where there is no room for it or none is
        permitted.
    """
    try:
        lock = os.open(path / _SUPERVISED, os.O_RDWR | os.O_CREAT, 0o644)
    except OSError:
        return None
    try:
        fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except OSError:
        os.close(lock)
        return None
    return lock


def end_supervision(path: Path, lock: int) -> None:
    """Give up what `supervise` gave."""
    with contextlib.suppress(OSError):
        os.unlink(path / _SUPERVISED)
    os.close(lock)


def is_locked(path: Path, name: str = _LOCK) -> bool:
    """Whether a process holds a run; or another lock in its folder."""
    try:
        lock = os.open(path / name, os.O_RDONLY)
    except OSError:
        return False
    try:
        fcntl.flock(lock, fcntl.LOCK_SH | fcntl.LOCK_NB)
    except BlockingIOError:
        return True
    finally:
        os.close(lock)
    return False
