"""Signs of life that a training leaves for the process that started it.

Each rank has a page of memory in a file, which it shares with that process: what it is
doing and since when. To write there needs no system call. Beside the page are small
files: what went wrong, where the run is, and the stacks of a process that hangs.

A process that was not started so leaves no signs, and every function does nothing.
"""

from __future__ import annotations

import contextlib
import faulthandler
import json
import mmap
import os
import signal
import struct
import sys
import threading
import time
from collections import deque
from pathlib import Path
from typing import Any, NamedTuple

from lumina import start_clock

FOLDER = "LUMINA_HEARTBEAT"
"""The environment variable that names the folder of the signs."""

STACKS = signal.SIGUSR2
"""The signal on which a process writes its stacks."""

ACTIVITIES: dict[str, tuple[float, float]] = {
    "starting": (300.0, 900.0),
    "preparing": (1800.0, 7200.0),
    "assembling": (600.0, 3600.0),
    "first steps": (600.0, 3600.0),
    "step": (0.0, 0.0),  # by the time that steps take
    "waiting for data": (50.0, 600.0),
    "compiling": (600.0, 3600.0),
    "evaluating": (120.0, 600.0),
    "writing samples": (300.0, 900.0),
    "changing the program": (600.0, 3600.0),
    "saving": (300.0, 1800.0),
    "ending": (600.0, 3600.0),
}
"""What a process may be doing, and the seconds that it may take without a further sign:
before that is reported, and before a supervised process is ended."""

FIRST_STEPS = 3
"""Steps of a process before their time tells how long a step takes."""

_REMEMBERED = 31
_PAGE = mmap.PAGESIZE
_BEAT = struct.Struct("<Qddq32sQ")


class Beat(NamedTuple):
    """A sign of life.

    Attributes:
        activity: what the process is doing, a key of `ACTIVITIES`.
        since: when the sign was left, by `time.monotonic`.
        step: completed steps of the run; -1 where no step has begun.
        typical: seconds of a step, the median of the last ones; 0 before that is known.
    """

    activity: str
    since: float
    step: int
    typical: float


class _Page:
    """Writes the signs of one process."""

    def __init__(self, path: Path) -> None:
        # Written out, so that a full disk is met here and not while the run goes on.
        path.write_bytes(bytes(_PAGE))
        with open(path, "r+b") as file:
            self._memory = mmap.mmap(file.fileno(), _PAGE)
        self._count = 0
        self._activity = "starting"
        self._step = -1
        self._begun: float | None = None  # the present step; None: not a usual one
        self._seconds: deque[float] = deque(maxlen=_REMEMBERED)
        self._typical = 0.0
        self.beat("starting", None)

    def beat(self, activity: str, step: int | None) -> None:
        now = time.monotonic()
        if activity == "step":
            if self._begun is not None:
                self._seconds.append(now - self._begun)
                self._typical = sorted(self._seconds)[len(self._seconds) // 2]
            self._begun = now
            if len(self._seconds) < FIRST_STEPS:
                activity = "first steps"
        elif activity != "waiting for data":
            self._begun = None
        self._activity = activity
        if step is not None:
            self._step = step
        self._write(now)

    def still(self) -> None:
        self._write(time.monotonic())

    def _write(self, now: float) -> None:
        self._count += 1
        self._memory[: _BEAT.size] = _BEAT.pack(
            self._count,
            now,
            self._typical,
            self._step,
            self._activity.encode(),
            self._count,
        )


class _Watchdog(threading.Thread):
    """Ends its own process where that leaves no sign, for want of another to do it.

    Args:
        seconds: that a step may take; twice as many end the process.
    """

    def __init__(self, seconds: float) -> None:
        super().__init__(name="hang watchdog", daemon=True)
        self.seconds = seconds
        self.steps = 0
        self.sign("starting")

    def sign(self, activity: str) -> None:
        """The process does this from now on."""
        self.steps += activity == "step"
        if activity == "step" and self.steps <= FIRST_STEPS:
            activity = "first steps"
        self.limit = 2 * self.seconds
        if activity != "step":
            self.limit = max(self.limit, ACTIVITIES[activity][1])
        self.activity, self.since = activity, time.monotonic()

    def run(self) -> None:
        while time.monotonic() - self.since <= self.limit:
            time.sleep(min(0.5, self.seconds / 4))
        sys.stderr.write(
            f"this process hangs ({self.activity}): no sign of life for "
            f"{time.monotonic() - self.since:.1f} s; it ends, so that its launcher "
            "starts all again\n"
        )
        faulthandler.dump_traceback(sys.stderr, all_threads=True)
        sys.stderr.flush()
        os._exit(1)


_watchdog: _Watchdog | None = None
_page: _Page | None = None
_folder: Path | None = None
_rank = 0


def begin() -> None:
    """Leave signs from here on, where the environment names a folder for them.

    The variable is removed, because the processes that this one starts are others.
    """
    global _page, _folder, _rank
    named = os.environ.pop(FOLDER, None)
    if named is None or not Path(named).is_dir():
        return
    _folder, _rank = Path(named), int(os.environ.get("RANK", "0"))
    _page = _Page(page_of(_folder, _rank))
    stacks = open(stacks_of(_folder, _rank), "wb", buffering=0)  # noqa: SIM115
    faulthandler.register(STACKS, file=stacks, all_threads=True, chain=False)
    if not faulthandler.is_enabled():
        faulthandler.enable(file=stacks, all_threads=True)


def end() -> None:
    """Leave no more signs; harmless when repeated."""
    global _page, _folder
    if _page is not None:
        faulthandler.unregister(STACKS)
    _page = _folder = None


def end_when_silent(seconds: float) -> None:
    """End this process where it hangs, because what started it does not see that.

    The elastic agent of torchrun starts ranks again that have ended, and waits for
    those that hang.

    Args:
        seconds: that a step may take without a sign; the process ends after twice as
            many, and in other work after what `ACTIVITIES` says, if that is longer.
    """
    global _watchdog
    if _watchdog is None:
        _watchdog = _Watchdog(seconds)
        _watchdog.start()


def watched() -> bool:
    """Whether another process looks after this one."""
    return _page is not None


def beat(activity: str, step: int | None = None) -> None:
    """Say what the process does from now on.

    Args:
        activity: a key of `ACTIVITIES`.
        step: completed steps of the run, where they are known.
    """
    if _page is not None:
        _page.beat(activity, step)
    if _watchdog is not None:
        _watchdog.sign(activity)
    start_clock.activity(activity)


def still() -> None:
    """Say that what the process does goes on."""
    if _page is not None:
        _page.still()
    if _watchdog is not None:
        _watchdog.since = time.monotonic()


def leave(name: str, values: dict[str, Any]) -> None:
    """Leave word of something beside the signs, in a file of this rank's."""
    if _folder is not None:
        write(word_of(_folder, _rank, name), values)


def told(name: str) -> dict[str, Any]:
    """What the process that started this one has said; empty where it said nothing."""
    return {} if _folder is None else read(_folder / f"{name}.json")


def page_of(folder: Path, rank: int) -> Path:
    """The file of a rank's signs."""
    return folder / f"rank-{rank}.beat"


def stacks_of(folder: Path, rank: int) -> Path:
    """The file of a rank's stacks."""
    return folder / f"rank-{rank}.stacks"


def word_of(folder: Path, rank: int, name: str) -> Path:
    """The file in which a rank says something."""
    return folder / f"rank-{rank}.{name}.json"


def write(path: Path, values: dict[str, Any]) -> None:
    """Replace a small file; where there is no room, the word is lost."""
    temporary = path.with_suffix(".tmp")
    with contextlib.suppress(OSError):
        temporary.write_text(json.dumps(values), encoding="utf-8")
        os.replace(temporary, path)


def read(path: Path) -> dict[str, Any]:
    """The values of a file of `write`; empty where there is none."""
    try:
        values = json.loads(path.read_text(encoding="utf-8"))
    except (OSError, ValueError):
        return {}
    return values if isinstance(values, dict) else {}


def last_beat(folder: Path, rank: int) -> Beat | None:
    """The newest sign of a rank; None where it has left none."""
    try:
        with open(page_of(folder, rank), "rb") as file:
            data = file.read(_BEAT.size)
    except OSError:
        return None
    if len(data) < _BEAT.size:
        return None
    first, since, typical, step, activity, last = _BEAT.unpack(data)
    if not first or first != last:  # not written yet, or at this moment
        return None
    name = activity.rstrip(b"\0").decode()
    return Beat(name, since, step, typical)
