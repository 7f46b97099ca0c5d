"""Runs generated Python in a restricted process, or refuses to.

Nothing is run with fewer protections than `confine` lists: where the system does not
give one of them, the code does not run and the reason is named.
"""

from __future__ import annotations

import json
import os
import selectors
import signal
import subprocess
import sys
import sysconfig
import tempfile
import time
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any, Literal

from lumina.errors import LuminaError

_CONFINE = Path(__file__).with_name("confine.py")

_SYSTEM = ("/lib", "/lib32", "/lib64", "/usr/lib", "/usr/lib64", "/etc/ld.so.cache",
           "/dev/null", "/dev/zero", "/dev/random", "/dev/urandom")  # fmt: skip

START_SECONDS = 60.0
"""For the start of the interpreters, on a machine that may be busy."""

Status = Literal["ok", "failed", "time", "processor_time", "output", "killed"]


@dataclass(frozen=True)
class Limits:
    """What the code of one run may use.

    Attributes:
        seconds: from its start to its end.
        cpu_seconds: of the processor, of each process.
        memory_bytes: of addresses, of each process.
        file_bytes: of one file.
        folder_bytes: of all files together.
        processes: processes and threads together.
        output_bytes: of what it prints, standard output and errors together.
    """

    seconds: float = 10.0
    cpu_seconds: int = 10
    memory_bytes: int = 2**30
    file_bytes: int = 2**24
    folder_bytes: int = 2**26
    processes: int = 8
    output_bytes: int = 2**18

    def __post_init__(self) -> None:
        for name, value in asdict(self).items():
            if not value > 0:
                raise LuminaError(
                    "E005", f"{name} is {value}", "give a number above zero"
                )


@dataclass(frozen=True)
class Ended:
    """How the code of one run ended.

    Attributes:
        status: "ok": with exit code 0; "failed": with another; "time" and
            "processor_time": it took too long; "output": it printed too much; "killed":
            by another signal.
        exit_code: of the process, below zero for a signal; None where it printed too
            much and was ended from outside.
        stdout: what it printed.
        stderr: its errors.
        seconds: from its start to its end; None likewise.
        cpu_seconds: of the processor, those of processes that it waited for included;
            None likewise.
        memory_bytes: most memory in use; None likewise.
    """

    status: Status
    exit_code: int | None
    stdout: str
    stderr: str
    seconds: float | None = None
    cpu_seconds: float | None = None
    memory_bytes: int | None = None

    @property
    def reason(self) -> str:
        """In a few words: the last line of the errors, or what ended it."""
        words = {
            "time": "it did not end in time",
            "processor_time": "it used up its processor time",
            "output": "it printed too much",
        }
        if self.status in words:
            return words[self.status]
        lines = self.stderr.strip().splitlines()
        return lines[-1][:200] if lines else f"{self.status}, {self.exit_code}"


def run_restricted(source: str, limits: Limits | None = None) -> Ended:
    """Run Python code that nobody has looked at.

    The code runs in processes of its own, in namespaces of its own: it has no network,
    sees no other process, and of the machine's files only the interpreter and its
    standard library, read-only. It begins in an empty folder in memory that is gone
    afterwards, as another user where this one is the superuser, without
    capabilities and with an environment of four names. When it ends, or its time
    does, so does every process that it started.

    Args:
        source: of the program.
        limits: what it may use; None: the default ones.

    Returns:
        How it ended; that code fails is no error of this function.

    Raises:
        LuminaError: E003 where the system does not give one of these protections;
            nothing has been run then.
    """
    limits = limits or Limits()
    if sys.platform != "linux":
        raise _refused(f"there are no namespaces on {sys.platform}")
    with tempfile.TemporaryDirectory(prefix="lumina-code-") as root:
        request = {
            "parent": os.getpid(),
            "root": root,
            "source": source,
            "python": _interpreter(),
            "shown": _shown(),
            "limits": asdict(limits),
        }
        return _supervise(request, limits)


def check_restricted() -> None:
    """Find out whether generated code can be run here at all.

    Raises:
        LuminaError: E003, as `run_restricted`.
    """
    ended = run_restricted("print('ready')")
    if ended.stdout != "ready\n":
        raise _refused(f"the interpreter does not start in there: {ended.reason}")


def _interpreter() -> str:
    """The interpreter itself, not the one of a virtual environment."""
    return os.path.realpath(getattr(sys, "_base_executable", "") or sys.executable)


def _shown() -> list[str]:
    """The folders and files that the interpreter needs; those within others last."""
    paths = sysconfig.get_paths()
    own = {os.path.realpath(paths[name]) for name in ("stdlib", "platstdlib")}
    own.add(_interpreter())
    library = sysconfig.get_config_var("LIBDIR") or ""
    for folder in (library, os.path.join(sys.base_prefix, "lib")):
        if os.path.isdir(folder):
            own.add(os.path.realpath(folder))
    own |= set(_SYSTEM)
    return sorted(own, key=lambda path: (path.count("/"), path))


def _refused(reason: str) -> LuminaError:
    return LuminaError(
        "E003",
        "generated code is not run: this system does not give the protection that it "
        f"needs ({reason})",
        "run it on a Linux machine that lets a program make user, mount, process and "
        "network namespaces (kernel 5.12 or newer; containers often forbid it, Ubuntu "
        "with kernel.apparmor_restrict_unprivileged_userns=1), or leave run_code out",
    )


def _supervise(request: dict[str, Any], limits: Limits) -> Ended:
    """Start the chain of processes, read what they say, and end them in time."""
    reader, writer = os.pipe()
    try:
        process = subprocess.Popen(
            [sys.executable, "-I", "-S", "-B", str(_CONFINE), str(writer)],
            stdin=subprocess.PIPE, stdout=subprocess.PIPE, stderr=subprocess.PIPE,
            pass_fds=(writer,), env={}, cwd="/", start_new_session=True,
        )  # fmt: skip
    except BaseException:
        os.close(reader)
        raise
    finally:
        os.close(writer)
    assert process.stdin is not None
    try:
        try:
            process.stdin.write(json.dumps(request).encode())
            process.stdin.close()
        except BrokenPipeError:
            pass  # it has ended, and said why
        texts, over = _read_all(process, reader, limits)
    finally:
        # The first process of the namespace is in this group: with it all end.
        os.killpg(process.pid, signal.SIGKILL)
        process.wait()
        os.close(reader)
        for stream in (process.stdin, process.stdout, process.stderr):
            if stream is not None and not stream.closed:
                stream.close()
    return _ended(texts, over)


def _read_all(
    process: subprocess.Popen[bytes], reader: int, limits: Limits
) -> tuple[dict[str, bytearray], Status | None]:
    """What was printed and reported until all ended, or a limit was passed."""
    assert process.stdout is not None and process.stderr is not None
    texts = {name: bytearray() for name in ("status", "stdout", "stderr")}
    # The code's own time is kept in there; this is for what goes wrong with that.
    until = time.monotonic() + limits.seconds + START_SECONDS
    with selectors.DefaultSelector() as waiting:
        for name, file in (
            ("status", reader), ("stdout", process.stdout.fileno()),
            ("stderr", process.stderr.fileno()),
        ):  # fmt: skip
            waiting.register(file, selectors.EVENT_READ, name)
        while waiting.get_map():
            left = until - time.monotonic()
            if left <= 0:
                return texts, "time"
            for key, _ in waiting.select(left):
                found = os.read(key.fd, 2**16)
                texts[key.data] += found
                if not found:
                    waiting.unregister(key.fd)
            if len(texts["stdout"]) + len(texts["stderr"]) > limits.output_bytes:
                return texts, "output"
    return texts, None


def _ended(texts: dict[str, bytearray], over: Status | None) -> Ended:
    printed: dict[str, Any] = {
        name: texts[name].decode("utf-8", "replace") for name in ("stdout", "stderr")
    }
    told: dict[str, Any] = {}
    for line in texts["status"].splitlines():
        told |= json.loads(line)
    if "refused" in told:
        raise _refused(told["refused"])
    if over is not None and told.get("started"):
        return Ended(over, None, **printed)
    if "ended" not in told:
        last = printed["stderr"].strip().splitlines() or ["nothing was said"]
        raise _refused(f"the restricted process ended early: {last[-1][:200]}")
    code = told["ended"]
    status: Status = "ok" if code == 0 else "failed" if code > 0 else "killed"
    if told["late"]:
        status = "time"
    elif code == -signal.SIGXCPU:
        status = "processor_time"
    return Ended(
        status, code, **printed, seconds=told["seconds"],
        cpu_seconds=told["cpu_seconds"], memory_bytes=told["memory_bytes"],
    )  # fmt: skip
