"""Tests beside each other on one GPU: those that need all of its memory run alone."""

from __future__ import annotations

import contextlib
import fcntl
import os
import tempfile
from collections.abc import Iterator
from pathlib import Path


@contextlib.contextmanager
def turn(*, alone: bool) -> Iterator[None]:
    """Wait until a test may use the GPU, and hold its place meanwhile.

    Processes share one file lock; a test that runs alone has it for itself. Whoever
    waits for that keeps the gate closed, so that later tests do not overtake it.

    Args:
        alone: whether the test needs the memory of the whole device.
    """
    visible = os.environ.get("CUDA_VISIBLE_DEVICES", "all").replace(",", "-")
    place = Path(tempfile.gettempdir()) / f"lumina-tests-cuda-{visible}"
    with open(f"{place}.gate", "w") as gate, open(f"{place}.lock", "w") as room:
        fcntl.flock(gate, fcntl.LOCK_EX)
        fcntl.flock(room, fcntl.LOCK_EX if alone else fcntl.LOCK_SH)
        fcntl.flock(gate, fcntl.LOCK_UN)
        yield
