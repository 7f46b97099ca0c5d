"""Processes that this one starts, and what becomes of them when it ends."""

from __future__ import annotations

import ctypes
import signal
import sys

_SYSTEM = ctypes.CDLL(None)
"""Loaded before a fork: a child may not load libraries."""


def die_with_parent() -> None:
    """Ask the system to end this process with the one that started it (Linux).

    Otherwise a child whose parent was killed would train on and hold the run's lock.
    """
    if sys.platform == "linux":
        _SYSTEM.prctl(1, signal.SIGKILL)  # PR_SET_PDEATHSIG
