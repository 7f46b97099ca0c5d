"""Modules that are run as `python -m` does, in a fork of a server that has PyTorch."""

from __future__ import annotations

import os
import runpy
import subprocess
import sys
import tempfile
from pathlib import Path

from training import PATIENCE, start_process


def run_forked(
    command: list[str],
    *,
    input: str | None = None,
    timeout: float | None = None,
    **_: object,
) -> subprocess.CompletedProcess[str]:
    """`subprocess.run` of [python, "-m", MODULE, ...], without seconds of imports.

    It is a process of its own, which may end in any way. What has to be shown of a
    fresh interpreter needs `subprocess.run` itself, in a longer test.

    Args:
        command: as `subprocess.run` takes it.
        input: its standard input.
        timeout: seconds after which it is killed, as there.
    """
    assert command[:2] == [sys.executable, "-m"]
    with tempfile.TemporaryDirectory() as folder:
        streams = [Path(folder, name) for name in ("in", "out", "err")]
        streams[0].write_text(input or "")
        process = start_process(_run, command[2:], [str(path) for path in streams])
        process.join(PATIENCE if timeout is None else timeout)
        if process.exitcode is None:
            process.kill()
            process.join()
            raise subprocess.TimeoutExpired(command, timeout or PATIENCE)
        out, err = (path.read_text() for path in streams[1:])
    return subprocess.CompletedProcess(command, process.exitcode, out, err)


def _run(words: list[str], streams: list[str]) -> None:
    for number, path in enumerate(streams):
        os.dup2(os.open(path, os.O_RDWR | os.O_CREAT, 0o644), number)
    sys.stdin, sys.stdout, sys.stderr = open(0), open(1, "w"), open(2, "w")  # noqa: SIM115
    sys.argv = list(words)
    runpy.run_module(words[0], run_name="__main__", alter_sys=True)
