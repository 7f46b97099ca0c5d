"""When processes that leave no signs of life count as hung, and which of them it is."""

from __future__ import annotations

import re
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

from lumina.heartbeat import ACTIVITIES, Beat
from lumina.quantities import duration

FLOOR = 45.0
"""Seconds that any step may take; a machine with other work on it stalls at times."""

SLOWER = 20.0
"""A step may take this many times what steps of this run take."""

STOPPED = "T"
"""The state of a process that SIGSTOP holds."""

_WAITS = ("torch/distributed/", "torch/autograd/", "torch/nn/parallel/")
"""Code in which a process waits for the other ranks."""


@dataclass(frozen=True)
class Silence:
    """Processes that have left no sign for too long.

    Attributes:
        ranks: those that are the cause, as far as it is known; else all of them.
        seconds: since the newest sign of those.
        limit: seconds that were allowed.
        patience: seconds before the processes are ended.
        activity: what the first of those ranks was doing.
        step: completed steps of the run; -1 where no step had begun.
        stopped: SIGSTOP holds them.
    """

    ranks: tuple[int, ...]
    seconds: float
    limit: float
    patience: float
    activity: str
    step: int
    stopped: bool = False

    def in_words(self, several: bool) -> str:
        """What is wrong, for a person.

        Args:
            several: there are several ranks, so that a number tells something.
        """
        who = named(self.ranks) if several else "the training"
        if self.stopped:
            return f"{who} was stopped by SIGSTOP for {duration(self.seconds)}"
        doing = f" ({self.activity})" if self.activity else ""
        return (
            f"{who} hangs{doing}: no sign of life for {duration(self.seconds)}, and "
            f"{duration(self.limit)} are allowed"
        )


def named(ranks: Sequence[int]) -> str:
    """Ranks in words, such as "rank 1" and "ranks 0 and 2"."""
    if len(ranks) == 1:
        return f"rank {ranks[0]}"
    return f"ranks {', '.join(map(str, ranks[:-1]))} and {ranks[-1]}"


def limits_of(beat: Beat | None, floor: float) -> tuple[float, float]:
    """Seconds that a process may take without a further sign.

    Args:
        beat: its newest sign; None: it has left none.
        floor: seconds that any step may take.

    Returns:
        The seconds before that is reported, and before the process is ended.
    """
    if beat is None:
        return ACTIVITIES["starting"]
    if beat.activity == "step":
        limit = max(floor, SLOWER * beat.typical)
        return limit, 2 * limit
    report, end = ACTIVITIES.get(beat.activity, (0.0, 0.0))
    return max(report, floor), max(end, 2 * floor)


class Watch:
    """Looks at the signs of the ranks of one attempt.

    Ranks wait for each other in every step, so one that hangs silences all; a rank that
    is only waiting, such as for the first one to read the data, is not hung while
    another one goes on.

    Args:
        ranks: how many there are.
        floor: seconds that any step may take; 0: nothing counts as hung.
        now: seconds of the clock of `time.monotonic`.
    """

    def __init__(self, ranks: int, floor: float, now: float) -> None:
        self._floor = floor
        self._began = now
        self._stopped: list[float | None] = [None] * ranks

    def forgive(self, now: float) -> None:
        """Count from now on, because the processes were held on purpose."""
        self._began = now

    def look(
        self, beats: Sequence[Beat | None], states: Sequence[str], now: float
    ) -> Silence | None:
        """What is wrong now; None while a process goes on.

        Args:
            beats: the newest sign of each rank.
            states: the state of each process, a letter of the system; empty: unknown.
            now: seconds, as above.
        """
        if not self._floor:
            return None
        return self._held(beats, states, now) or self._silent(beats, states, now)

    def _held(
        self, beats: Sequence[Beat | None], states: Sequence[str], now: float
    ) -> Silence | None:
        """Ranks that SIGSTOP holds, whatever they were doing."""
        for rank, state in enumerate(states):
            since = self._stopped[rank]
            if state != STOPPED:
                self._stopped[rank] = None
            elif since is None or since < self._began:
                self._stopped[rank] = now
        found = [
            (rank, since)
            for rank, since in enumerate(self._stopped)
            if since is not None
        ]
        if not found:
            return None
        seconds = now - min(since for _, since in found)
        if seconds <= self._floor:
            return None
        first = beats[found[0][0]]
        return Silence(
            tuple(rank for rank, _ in found),
            seconds,
            self._floor,
            2 * self._floor,
            first.activity if first else "",
            _step(beats),
            stopped=True,
        )

    def _silent(
        self, beats: Sequence[Beat | None], states: Sequence[str], now: float
    ) -> Silence | None:
        """All ranks, where each of them has been silent for longer than it may."""
        silent = [now - max(self._began, beat.since if beat else 0.0) for beat in beats]
        limits = [limits_of(beat, self._floor) for beat in beats]
        # A debugger holds it ("t"): a person looks at it. SIGSTOP is told as such.
        goes_on = any(s <= most for s, (most, _) in zip(silent, limits, strict=True))
        if goes_on or "t" in states or STOPPED in states:
            return None
        behind = _behind(beats)
        first = beats[behind[0]]
        return Silence(
            behind,
            min(silent[rank] for rank in behind),
            *limits[behind[0]],
            first.activity if first else "",
            _step(beats),
        )


def _step(beats: Sequence[Beat | None]) -> int:
    return max((beat.step for beat in beats if beat is not None), default=-1)


def _behind(beats: Sequence[Beat | None]) -> tuple[int, ...]:
    """The ranks that have come less far than others; all where they are level."""

    def place(beat: Beat | None) -> tuple[int, bool]:
        if beat is None:
            return (-2, False)
        # Within one step, reading comes before computing; other work is not ordered.
        return (beat.step, beat.activity in ("first steps", "step"))

    places = [place(beat) for beat in beats]
    least = min(places)
    return tuple(rank for rank, found in enumerate(places) if found == least)


def blamed(ranks: Sequence[int], stacks: Sequence[str]) -> tuple[int, ...]:
    """Those of the ranks that do not wait for others, by their stacks.

    Args:
        ranks: the suspects.
        stacks: the stack of the main thread of every rank; empty: it could not write.

    Returns:
        The suspects that are the cause; all of them where the stacks do not tell.
    """
    found = tuple(rank for rank in ranks if not _waits(stacks[rank]))
    return found if found else tuple(ranks)


def _waits(stack: str) -> bool:
    """Whether a process waits for the other ranks, by the innermost lines of it."""
    return any(place in line for line in _lines(stack)[:2] for place in _WAITS)


def _lines(stack: str) -> list[str]:
    return [line.strip() for line in stack.splitlines() if line.startswith("  File ")]


def all_written(path: Path, begin: int) -> bool:
    """Whether stacks that `faulthandler` is writing are whole.

    It writes them word by word, a process may be held up in between, and nothing marks
    their end. What comes last is the outermost frame of the main thread.

    Args:
        path: the file.
        begin: where in it they begin, in bytes.
    """
    try:
        with open(path, "rb") as file:
            file.seek(begin)
            text = file.read()
    except OSError:
        return False
    return text.endswith(_OUTERMOST)


_OUTERMOST = (b" in <module>\n", b" in _run_module_as_main\n", b"\n  ...\n")
"""How stacks end: with a program, with `python -m`, and behind a hundred frames."""


def main_thread(path: Path) -> str:
    """The stack of the main thread in a file that `faulthandler` wrote last.

    Returns:
        Its lines, innermost first; empty where there is none.
    """
    try:
        text = path.read_text(errors="replace")
    except OSError:
        return ""
    parts = re.split(r"(?m)^(?=(?:Current thread|Thread) 0x)", text)
    # The main thread is the oldest, and the oldest is written last.
    for part in reversed(parts):
        if _lines(part):
            return part.rstrip()
    return ""
