"""One process at a time works in the folder of a matrix."""

from __future__ import annotations

import fcntl
import os
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from lumina.errors import LuminaError

LOCK = "lock"


@contextmanager
def held(folder: Path) -> Iterator[None]:
    """Hold a folder; the lock goes with the process, however that ends.

    Raises:
        LuminaError: E002 while another process holds it: each would remove the runs
            that the other one compares with.
    """
    lock = os.open(folder / LOCK, os.O_RDWR | os.O_CREAT, 0o644)
    try:
        try:
            fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            raise LuminaError(
                "E002",
                f"another lumina matrix works in {folder}",
                "wait for it or stop it, or name another --folder",
            ) from None
        yield
    finally:
        os.close(lock)
