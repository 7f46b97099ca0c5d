"""Faults of a process and its files: real signals, real damage."""

from __future__ import annotations

import os
import signal
import time
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

WAIT_SECONDS = 20.0
"""For a checkpoint that is being written when it is to be damaged."""


def _raise(details: Mapping[str, Any], checkpoints: Path) -> None:
    raise RuntimeError("an error that the benchmark injects")


def _signal(number: int) -> Callable[[Mapping[str, Any], Path], None]:
    def send(details: Mapping[str, Any], checkpoints: Path) -> None:
        os.kill(os.getpid(), number)

    return send


def _damage(details: Mapping[str, Any], checkpoints: Path) -> None:
    """Damage the largest file of the newest checkpoint, and die."""
    if newest := _newest(checkpoints):
        file = max(newest.rglob("*.safetensors"), key=lambda path: path.stat().st_size)
        size = file.stat().st_size
        if details["how"] == "cut":
            os.truncate(file, size // 2)
        else:
            with file.open("r+b") as opened:
                opened.seek(size // 2)
                byte = opened.read(1)[0]
                opened.seek(size // 2)
                opened.write(bytes([byte ^ 0x40]))
    os.kill(os.getpid(), signal.SIGKILL)


def _newest(checkpoints: Path) -> Path | None:
    """The newest checkpoint; waits a little for the first. None: there is none."""
    end = time.monotonic() + WAIT_SECONDS
    while checkpoints.is_dir() and time.monotonic() < end:
        whole = [
            path
            for path in sorted(checkpoints.iterdir())
            if path.is_dir()
            and not path.is_symlink()
            and any(path.rglob("*.safetensors"))
        ]
        if whole:
            return whole[-1]
        time.sleep(0.05)
    return None


PROCESS_FAULTS: Mapping[str, Callable[[Mapping[str, Any], Path], None]] = {
    "sigkill": _signal(signal.SIGKILL),
    "sigstop": _signal(signal.SIGSTOP),
    "sigabrt": _signal(signal.SIGABRT),
    "exception": _raise,
    "damaged_checkpoint": _damage,
}
"""Kind -> what it does, given its details and the folder of checkpoints."""
