"""Processes that this one starts, and what becomes of them when it ends."""

from __future__ import annotations

import ctypes
import multiprocessing
import os
import re
import signal
import sys

_REASON = re.compile(r"(?:[\w.]*(?:Error|Exception|Interrupt)\b|E\d{3} \()")
"""How a line begins on which a traceback, or a command of ours, says what happened."""

_SYSTEM = ctypes.CDLL(None)
"""Loaded before a fork: a child may not load libraries."""


def die_with_parent(parent: int | None = None) -> None:
    """Ask the system to end this process with the one that started it (Linux).

    Otherwise a child whose parent was killed would train on and hold the run's lock.
    The system says nothing of a parent that ended before it was asked, so this process
    ends at once where that has happened.

    Args:
        parent: the process that started this one, by the number that it read of itself
            before it did. None where multiprocessing started this one and knows.

    Raises:
        ValueError: multiprocessing was to know the parent, and does not.
    """
    if sys.platform != "linux":
        return
    _SYSTEM.prctl(1, signal.SIGKILL)  # PR_SET_PDEATHSIG
    if parent is not None:
        orphaned = os.getppid() != parent
    else:
        # Its parent for the system is the fork server, which ends with this one.
        starter = multiprocessing.parent_process()
        if starter is None:
            raise ValueError("not started by multiprocessing: name the parent")
        orphaned = not starter.is_alive()
    if orphaned:
        os.kill(os.getpid(), signal.SIGKILL)


def reason_of_end(output: str) -> str:
    """Why a process ended, in one line of what it printed.

    The line of the last exception, where there is one: libraries add lines of advice
    after it. Else the last line.
    """
    lines = [line.strip() for line in output.splitlines() if line.strip()]
    reasons = [line for line in lines if _REASON.match(line)]
    return (reasons or lines or ["it printed nothing"])[-1]
