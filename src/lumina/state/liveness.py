"""Whether a run is going on, by its own word and by the locks of its processes."""

from __future__ import annotations

import contextlib
import fcntl
import json
import os
import random
import time
from pathlib import Path

LOCK, _SUPERVISED = ".lock", ".supervised"


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
    name = path / _SUPERVISED
    while True:
        try:
            lock = os.open(name, os.O_RDWR | os.O_CREAT, 0o644)
        except OSError:
            return None
        try:
            if not held_alone(lock):
                os.close(lock)
                return None
            if os.path.samestat(os.fstat(lock), os.stat(name)):
                return lock
        except FileNotFoundError:
            pass
        except OSError:
            os.close(lock)
            return None
        # Another supervisor ended meanwhile, and took its file away: nobody would see
        # the lock of that one.
        os.close(lock)


def held_alone(lock: int) -> bool:
    """Lock an open file for this process alone; False: another process holds it so.

    Who only looks whether it is held (`is_locked`) shares the lock for an instant. That
    is no reason to refuse a training, so it is waited for.

    Raises:
        OSError: the file system has no locks.
    """
    while not _locked(lock, fcntl.LOCK_EX):
        if not _locked(lock, fcntl.LOCK_SH):
            return False
        fcntl.flock(lock, fcntl.LOCK_UN)
        # Two that begin at once would else look at each other for ever.
        time.sleep(random.uniform(0.0, 0.002))
    return True


def _locked(lock: int, how: int) -> bool:
    try:
        fcntl.flock(lock, how | fcntl.LOCK_NB)
    except BlockingIOError:
        return False
    return True


def end_supervision(path: Path, lock: int) -> None:
    """Give up what `supervise` gave."""
    with contextlib.suppress(OSError):
        os.unlink(path / _SUPERVISED)
    os.close(lock)


def is_locked(path: Path, name: str = LOCK) -> bool:
    """Whether a process holds a run; or another lock in its folder."""
    try:
        lock = os.open(path / name, os.O_RDONLY)
    except OSError:
        return False
    try:
        fcntl.flock(lock, fcntl.LOCK_SH | fcntl.LOCK_NB)
    except BlockingIOError:
        return True
    except OSError:
        return False  # where the file system has no locks, nobody holds one
    finally:
        os.close(lock)
    return False
