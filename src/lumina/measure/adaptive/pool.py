"""Many jobs at a time, each in a forked process; what is done is not done again."""

from __future__ import annotations

import json
import os
import shutil
import sys
import tempfile
import time
import traceback
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

from lumina.child_processes import die_with_parent
from lumina.errors import LuminaError
from lumina.measure.adaptive.log import read_log

Tell = Callable[[str], None]
"""Shows a line of progress."""


class Results:
    """Finished jobs, one JSON line each, added by one process.

    Args:
        path: of the file. A last line that was cut off by a kill is taken away.
    """

    def __init__(self, path: Path) -> None:
        self.path = path
        path.parent.mkdir(parents=True, exist_ok=True)
        self.rows = read_log(path)
        if path.exists() and (content := path.read_bytes()) and content[-1:] != b"\n":
            os.truncate(path, content.rfind(b"\n") + 1)
        self.keys = {row["key"] for row in self.rows}

    def add(self, row: Mapping[str, Any]) -> None:
        """Add a job's row; it is on the device when this returns."""
        with self.path.open("a") as file:
            file.write(json.dumps(row, allow_nan=False) + "\n")
            file.flush()
            os.fsync(file.fileno())
        self.rows.append(dict(row))
        self.keys.add(row["key"])


def run_all(
    jobs: Mapping[str, Any],
    do: Callable[[Any, Path], dict[str, Any]],
    results: Results,
    *,
    parallel: int,
    tell: Tell,
) -> int:
    """Do every job that has no row yet.

    Args:
        jobs: by key, in the order in which they begin.
        do: makes the row of a job in a process and a folder of its own.
        results: where rows are, and go.
        parallel: most jobs at a time.
        tell: shows progress.

    Returns:
        The number of jobs that ended without a row; the reasons were told.

    Raises:
        LuminaError: E002 where the system cannot fork.
    """
    if not hasattr(os, "fork"):
        raise LuminaError("E002", "this system cannot fork", "use Linux or macOS")
    waiting = [key for key in jobs if key not in results.keys]
    total, began, failed, done = len(waiting), time.monotonic(), 0, 0
    tell(f"{len(jobs) - total} of {len(jobs)} jobs are done; {total} to do")
    running: dict[int, tuple[str, Path]] = {}
    shown = began
    try:
        while waiting or running:
            while waiting and len(running) < parallel:
                key = waiting.pop(0)
                folder = Path(tempfile.mkdtemp(prefix="lumina-bench-"))
                running[_fork(do, jobs[key], folder)] = (key, folder)
            for pid in list(running):
                ended, status = os.waitpid(pid, os.WNOHANG)
                if not ended:
                    continue
                key, folder = running.pop(pid)
                row = folder / "row.json"
                if row.exists():
                    results.add({"key": key, **json.loads(row.read_text())})
                    done += 1
                else:
                    failed += 1
                    error = folder / "error.txt"
                    why = error.read_text() if error.exists() else f"status {status}"
                    tell(f"{key} has no result: {why}")
                shutil.rmtree(folder, ignore_errors=True)
            if time.monotonic() - shown > 10 and done:
                shown = time.monotonic()
                left = (shown - began) / done * (total - done - failed)
                tell(f"{done} of {total} done, about {left / 60:.1f} minutes left")
            time.sleep(0.01)
    finally:
        for pid, (_, folder) in running.items():
            os.kill(pid, 9)
            os.waitpid(pid, 0)
            shutil.rmtree(folder, ignore_errors=True)
    tell(f"{done} done in {time.monotonic() - began:.0f} s, {failed} without a result")
    return failed


# A child of a process with threads could wait for ever for a lock that one of them
# held. Forks are safe here: the commands that call `run_all` compute nothing before it,
# since `Suite.warm` makes its trial run in a child and only imports in this process,
# and a forked run computes only after its last fork.
def _fork(do: Callable[[Any, Path], dict[str, Any]], job: Any, folder: Path) -> int:
    sys.stdout.flush()
    sys.stderr.flush()
    parent = os.getpid()
    pid = os.fork()
    if pid:
        return pid
    die_with_parent(parent)
    output = os.open(folder / "output.txt", os.O_WRONLY | os.O_CREAT, 0o666)
    os.dup2(output, 1)
    os.dup2(output, 2)
    try:
        row = json.dumps(do(job, folder), allow_nan=False)
        (folder / "row.tmp").write_text(row)
        (folder / "row.tmp").rename(folder / "row.json")
    except BaseException:
        (folder / "error.txt").write_text(traceback.format_exc())
        os._exit(1)
    os._exit(0)


def in_child(work: Callable[[], None], seconds: float) -> dict[str, Any]:
    """Do some work in a forked process, which may die, stop or take too long.

    Args:
        work: an exception ends the process with code 1.
        seconds: after which it is killed. A process that is stopped does not go on by
            itself: it is killed at once and charged all of them.

    Returns:
        "code" (None after a signal), "signal" (0: none), "hung", "seconds", "error".
    """
    read, write = os.pipe()
    began = time.monotonic()
    parent = os.getpid()
    pid = os.fork()
    if not pid:
        die_with_parent(parent)
        os.close(read)
        try:
            work()
        except BaseException as error:
            text = "".join(traceback.format_exception(error))[-2000:]
            os.write(write, text.encode())
            os._exit(1)
        os._exit(0)
    os.close(write)
    hung, status = False, None
    while status is None:
        ended, now = os.waitpid(pid, os.WNOHANG | os.WUNTRACED)
        if ended and not os.WIFSTOPPED(now):
            status = now
        elif ended or time.monotonic() - began > seconds:
            hung = True
            os.kill(pid, 9)
            _, status = os.waitpid(pid, 0)
        else:
            time.sleep(0.005)
    taken = time.monotonic() - began
    with os.fdopen(read, "rb") as pipe:
        said = pipe.read().decode(errors="replace")
    died = os.WIFSIGNALED(status)
    return {
        "code": None if died else os.WEXITSTATUS(status),
        "signal": os.WTERMSIG(status) if died else 0,
        "hung": hung,
        "seconds": round(max(taken, seconds) if hung else taken, 3),
        "error": said,
    }
