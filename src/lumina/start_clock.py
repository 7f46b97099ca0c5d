"""Where the seconds of a start go: from the process to its first finished step.

`lumina train` begins the clock; what a start consists of then says when its turn has
come. The clock runs once in a process: a second run of the same process has no start
to measure, and for it every function does nothing.
"""

from __future__ import annotations

import os
import time
from pathlib import Path

TORCH = "torch"
LUMINA = "Lumina"
COMPILER = "compiler"
MODEL = "model"
DEVICE = "device"
"""What is loaded, built or readied; the other parts are `PARTS_OF_ACTIVITIES`."""

PARTS_OF_ACTIVITIES = {
    "preparing": "data and plan",
    "assembling": MODEL,
    "waiting for data": "first batch",
    "compiling": "first step",
    "step": "first step",
}
"""Activity of `lumina.heartbeat` -> the part of a start that begins with it."""


class StartClock:
    """Adds up seconds by part, each from its call until the next one.

    Args:
        began: when the start began, in seconds of `time.time`.
        first: the part that had been going on since then.
    """

    def __init__(self, began: float, first: str) -> None:
        self._seconds: dict[str, float] = {}
        self._part, self._since = first, began

    def part(self, name: str) -> str:
        """Time belongs to `name` from here on.

        Returns:
            The part before, for one that lies within it to go back to.
        """
        before, now = self._part, time.time()
        passed = max(now - self._since, 0.0)
        self._seconds[before] = self._seconds.get(before, 0.0) + passed
        self._part, self._since = name, now
        return before

    def seconds(self) -> dict[str, float]:
        """Seconds of each part up to now, in the order in which they began."""
        self.part(self._part)
        return dict(self._seconds)


_clock: StartClock | None = None
_over = False


def begin() -> None:
    """The start of this process is measured, from when the system started it."""
    global _clock
    if not _over and _clock is None:
        _clock = StartClock(process_began(), "Python and command line")


def part(name: str) -> str:
    """Time belongs to this part of the start from here on.

    Returns:
        The part before; the name that was given where nothing is measured.
    """
    return name if _clock is None else _clock.part(name)


def activity(name: str) -> None:
    """An activity of `lumina.heartbeat` begins."""
    if _clock is not None and name in PARTS_OF_ACTIVITIES:
        _clock.part(PARTS_OF_ACTIVITIES[name])


def finished() -> dict[str, float] | None:
    """The first step is finished: seconds of each part, told once.

    Returns:
        None where nothing was measured, or it was told already.
    """
    global _clock, _over
    clock, _clock = _clock, None
    if clock is None:
        return None
    _over = True
    return clock.seconds()


def in_words(seconds: dict[str, float]) -> str:
    """One line, with every part that took a tenth of a second."""
    parts = ", ".join(
        f"{name} {spent:.1f}" for name, spent in seconds.items() if spent >= 0.1
    )
    return f"{sum(seconds.values()):.1f} s to the first step: {parts or 'no wait'}"


def process_began() -> float:
    """When the system started this process, in seconds of `time.time`.

    Linux says it to a hundredth of a second; elsewhere it is the present time.
    """
    try:
        # The name of the program, in brackets, may hold spaces.
        fields = Path("/proc/self/stat").read_text().rpartition(")")[2].split()
        since_boot = float(fields[19]) / os.sysconf("SC_CLK_TCK")
        age = time.clock_gettime(time.CLOCK_BOOTTIME) - since_boot
    except (OSError, ValueError, IndexError, AttributeError):
        age = 0.0
    return time.time() - max(age, 0.0)
