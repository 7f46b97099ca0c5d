"""`--nproc N`: start N processes of the same command on this machine."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
import time
from types import FrameType

from lumina.assemble.ranks import meeting_place
from lumina.child_processes import die_with_parent
from lumina.train.signals import ENDING, SAVING, heeded

GRACE_SECONDS = 30.0
"""After one process failed, the others get this long before they are killed."""


_SIGNALLED = tuple(128 + number for number in ENDING)
"""Exit codes of ranks that were asked to end."""


def launched() -> bool:
    """Whether this process is already one of several (torchrun or `launch`)."""
    return "WORLD_SIZE" in os.environ and "RANK" in os.environ


def launch(arguments: list[str], nproc: int) -> int:
    """Run `lumina ARGUMENTS` as `nproc` ranks and wait for them.

    Signals are passed on, so that every rank can end with a checkpoint. When one rank
    fails the others, which would wait for it for ever, are ended.

    Args:
        arguments: of the command, without the program's name.
        nproc: processes to start.

    Returns:
        The exit code of the rank that failed first, or 0; 129, 130 or 143 when a
        signal ended the run.
    """
    store, place = meeting_place()
    shared = place | {
        "WORLD_SIZE": str(nproc),
        "LOCAL_WORLD_SIZE": str(nproc),
    }
    command = [sys.executable, "-m", "lumina", *arguments]
    processes: list[subprocess.Popen[bytes]] = []

    def forward(number: int, frame: FrameType | None) -> None:
        # One rank asks the others for a checkpoint; two that are signalled at different
        # steps would ask for two.
        receivers = processes[:1] if number == SAVING else processes
        for process in receivers:
            if process.poll() is None:
                process.send_signal(number)

    previous = {number: signal.signal(number, forward) for number in heeded()}
    try:
        for rank in range(nproc):
            own = {"RANK": str(rank), "LOCAL_RANK": str(rank)}
            # A session of its own: the terminal's Ctrl-C reaches it once, through us.
            processes.append(
                subprocess.Popen(
                    command,
                    env=os.environ | shared | own,
                    start_new_session=True,
                    preexec_fn=_before_rank,
                )
            )
        return _wait(processes)
    finally:
        for process in processes:
            if process.poll() is None:
                process.kill()
        for number, handler in previous.items():
            signal.signal(number, handler)
        del store  # not before: the ranks meet there


def _before_rank() -> None:
    """Prepare the process of a rank before its program starts.

    SIGUSR1 ends a process without a handler, so it is ignored until there is one.
    """
    signal.signal(SAVING, signal.SIG_IGN)
    die_with_parent()


def _tell_killed(rank: int, number: int) -> None:
    """It could not say so itself; the others will only miss its messages."""
    print(
        f"rank {rank} was ended by signal {number} ({signal.strsignal(number)}); the "
        "others end too\n  what to do: go on from the last checkpoint with "
        "--auto-resume; a rank killed by the system may have run out of memory",
        file=sys.stderr,
    )


def _wait(processes: list[subprocess.Popen[bytes]]) -> int:
    """Wait for all; the first failure ends the rest after a grace period."""
    failed: int | None = None
    deadline = float("inf")
    while any(process.poll() is None for process in processes):
        for rank, process in enumerate(processes):
            code = process.poll()
            if code and failed is None:
                failed = code if code > 0 else 128 - code
                if code < 0 and failed not in _SIGNALLED:
                    _tell_killed(rank, -code)
                deadline = time.monotonic() + (
                    GRACE_SECONDS if failed in _SIGNALLED else 3.0
                )
        if time.monotonic() > deadline:
            for process in processes:
                if process.poll() is None:
                    process.kill()
        time.sleep(0.05)
    codes = [process.returncode for process in processes]
    if failed is None:
        failed = next((c if c > 0 else 128 - c for c in codes if c), 0)
    return failed
