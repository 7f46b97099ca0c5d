"""Processes that hang: found, named with their stacks, and ended."""

from __future__ import annotations

import time
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path

from lumina import heartbeat
from lumina.cli.supervisor.processes import Processes
from lumina.cli.supervisor.silence import (
    Silence,
    Watch,
    all_written,
    blamed,
    main_thread,
)
from lumina.cli.supervisor.verdict import Verdict

POLL_SECONDS = 0.05
STACK_SECONDS = 5.0
"""How long a process may take to write its stacks."""

STACK_LINES = 30
HANG_CODE = 1
"""Exit code of a training that was ended because it hung."""


class Hangs:
    """Looks after the processes of one attempt.

    Args:
        folder: where they leave their signs.
        processes: of the attempt.
        watch: says when silence counts as a hang.
        alone: there is one process, which is no rank of several.
    """

    def __init__(
        self, folder: Path, processes: Processes, watch: Watch, *, alone: bool
    ) -> None:
        self._folder = folder
        self._processes = processes
        self._watch = watch
        self._alone = alone

    @property
    def _count(self) -> int:
        return len(self._processes.processes)

    def look(self, now: float) -> Silence | None:
        """What is wrong now; None while a process goes on.

        Args:
            now: seconds, by `time.monotonic`.
        """
        if any(process.poll() is not None for process in self._processes.processes):
            return None  # one has ended: the others follow
        beats = [heartbeat.last_beat(self._folder, r) for r in range(self._count)]
        return self._watch.look(beats, self._processes.states(), now)

    def named(self, found: Silence) -> Silence:
        """The same with the ranks that are the cause, after all wrote their stacks."""
        self._write_stacks(found.ranks if found.stopped else ())
        if found.stopped or self._alone:
            return found
        stacks = [self.stack(rank) for rank in range(self._count)]
        return replace(found, ranks=blamed(found.ranks, stacks))

    def stack(self, rank: int) -> str:
        """Where the main thread of a rank was; empty where it could not say so."""
        return stack_of(self._folder, rank)

    def end(self, found: Silence) -> Verdict:
        """End all processes; one that is stopped first writes where it was."""
        step = furthest(self._folder, self._count)
        if found.stopped:
            for rank in found.ranks:
                self._processes.thaw(rank)
            self._write_stacks()
        stack = self.stack(found.ranks[0])
        self._processes.kill()
        return Verdict(
            HANG_CODE,
            found.in_words(several=not self._alone),
            True,
            rank=None if self._alone else found.ranks[0],
            kind="hang",
            step=step,
            details={"stack": stack, "ranks": list(found.ranks)},
        )

    def _write_stacks(self, stopped: Sequence[int] = ()) -> None:
        """Have all ranks write their stacks, and give them time for it.

        Args:
            stopped: ranks that cannot write theirs.
        """
        files = {
            rank: heartbeat.stacks_of(self._folder, rank)
            for rank in range(self._count)
            if rank not in stopped
        }
        sizes = {rank: _size(path) for rank, path in files.items()}
        self._processes.ask_for_stacks()
        deadline = time.monotonic() + STACK_SECONDS
        while time.monotonic() < deadline and any(
            self._processes.processes[rank].poll() is None
            and not all_written(path, sizes[rank])
            for rank, path in files.items()
        ):
            time.sleep(POLL_SECONDS)


def furthest(folder: Path, ranks: int) -> int:
    """Completed steps of the run, as its ranks said last; -1: none has begun."""
    beats = [heartbeat.last_beat(folder, rank) for rank in range(ranks)]
    return max((beat.step for beat in beats if beat is not None), default=-1)


def stack_of(folder: Path, rank: int) -> str:
    """The stack of a rank's main thread, shortened."""
    stack = main_thread(heartbeat.stacks_of(folder, rank))
    return "\n".join(stack.splitlines()[:STACK_LINES])


def _size(path: Path) -> int:
    try:
        return path.stat().st_size
    except OSError:
        return 0
