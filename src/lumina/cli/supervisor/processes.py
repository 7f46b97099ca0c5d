"""The processes of one attempt: one that trains, or the ranks of `--nproc`."""

from __future__ import annotations

import contextlib
import os
import signal
import subprocess
import time
from collections.abc import Mapping, Sequence
from functools import partial
from pathlib import Path

from lumina.child_processes import die_with_parent
from lumina.heartbeat import STACKS

GRACE_SECONDS = 30.0
"""After one process ended by a signal to end, the others get this long."""

FAILED_SECONDS = 3.0
"""After one process failed, the others get this long before they are killed."""

SAVING = signal.SIGUSR1
"""The signal that asks a training for a checkpoint."""


class Processes:
    """Starts the processes, passes signals on, and waits for their end.

    Attributes:
        processes: by rank.
        first: the rank that ended first with an error; None while there is none.
    """

    def __init__(self) -> None:
        self.processes: list[subprocess.Popen[bytes]] = []
        self.first: int | None = None
        self._deadline = float("inf")

    def start(
        self, command: Sequence[str], environments: Sequence[Mapping[str, str]]
    ) -> None:
        """Start one process for each environment, which lies over this process's own.

        Args:
            command: the program and its words.
            environments: of each rank.
        """
        for own in environments:
            # A session of its own: the terminal's Ctrl-C reaches it once, through us.
            self.processes.append(
                subprocess.Popen(
                    command,
                    env=os.environ | own,
                    start_new_session=True,
                    preexec_fn=partial(_before, os.getpid()),
                )
            )

    def forward(self, number: int) -> None:
        """Pass a signal on.

        One rank asks the others for a checkpoint; two that are signalled at different
        steps would ask for two.
        """
        receivers = self.processes[:1] if number == SAVING else self.processes
        for process in receivers:
            if process.poll() is None:
                process.send_signal(number)

    def hold(self, number: int) -> None:
        """Stop the processes and what they have started, or let them go on."""
        for process in self.processes:
            if process.poll() is None:
                with contextlib.suppress(ProcessLookupError):
                    os.killpg(process.pid, number)

    def ended(self, asked_codes: Sequence[int]) -> bool:
        """Whether all have ended; a failure ends the others after a grace period.

        Args:
            asked_codes: exit codes of processes that were asked to end.
        """
        codes = [process.poll() for process in self.processes]
        for rank, code in enumerate(codes):
            if code and self.first is None:
                self.first = rank
                asked = exit_code(code) in asked_codes
                self._deadline = time.monotonic() + (
                    GRACE_SECONDS if asked else FAILED_SECONDS
                )
        if time.monotonic() > self._deadline:
            self.kill()
        return all(code is not None for code in codes)

    def leave_soon(self) -> None:
        """Those that do not end by themselves, as they should now, are killed."""
        self._deadline = min(self._deadline, time.monotonic() + FAILED_SECONDS)

    def kill(self) -> None:
        """End those that still run, and what they have started, at once."""
        for process in self.processes:
            if process.poll() is None:
                with contextlib.suppress(ProcessLookupError):
                    os.killpg(process.pid, signal.SIGKILL)
        for process in self.processes:
            process.wait()

    @property
    def codes(self) -> list[int]:
        """How each has ended, negative for a signal."""
        return [process.returncode for process in self.processes]

    def states(self) -> list[str]:
        """The state of each process, a letter of the system; empty: not known."""
        return [_state(process.pid) for process in self.processes]

    def ask_for_stacks(self) -> None:
        """Have every process write its stacks; one that is stopped goes on for it."""
        for process in self.processes:
            if process.poll() is None:
                process.send_signal(STACKS)

    def thaw(self, rank: int) -> None:
        """Let a stopped process go on."""
        process = self.processes[rank]
        if process.poll() is None:
            process.send_signal(signal.SIGCONT)


def exit_code(code: int) -> int:
    """The exit code that a shell shows: 128 and the number of a signal."""
    return code if code >= 0 else 128 - code


def _state(pid: int) -> str:
    try:
        return Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()[0]
    except (OSError, IndexError):
        return ""


def _before(parent: int) -> None:
    """Prepare a process before its program starts.

    These signals end a process without a handler, so they are ignored until there is
    one.
    """
    signal.signal(SAVING, signal.SIG_IGN)
    signal.signal(STACKS, signal.SIG_IGN)
    die_with_parent(parent)
