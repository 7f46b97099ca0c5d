"""Files on disks and networks that fail for a moment: read again, and said so."""

from __future__ import annotations

import errno
import io
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any, BinaryIO, TypeVar

from lumina.heartbeat import still

TRANSIENT = frozenset(
    {
        errno.EIO,
        errno.EAGAIN,
        errno.EBUSY,
        errno.ESTALE,
        errno.ETIMEDOUT,
        errno.ECONNRESET,
        errno.ECONNABORTED,
        errno.ENETDOWN,
        errno.ENETUNREACH,
        errno.ENETRESET,
        errno.EHOSTDOWN,
        errno.EHOSTUNREACH,
        errno.ENOTCONN,
        errno.EREMOTEIO,
    }
)
"""What the system says of a device or a server that may answer the next time."""

WAITS = (0.5, 1.0, 2.0, 4.0, 8.0)
"""Seconds before each further attempt; after the last one the error stands."""

T = TypeVar("T")

OnEvent = Callable[[dict[str, Any]], object]

BUFFER = 2**17
"""Bytes that are read at a time."""

_listeners: list[OnEvent] = []


def tell_retries(on_event: OnEvent) -> None:
    """Have every further attempt told from here on.

    Args:
        on_event: called with the arguments of an event, from any thread.
    """
    _listeners[:] = [on_event]


def patient(path: Path) -> BinaryIO:
    """A file to read, whose transient failures are waited for.

    Raises:
        OSError: what does not pass, and what is no transient failure.
    """
    return io.BufferedReader(_Patient(path), BUFFER)


class _Patient(io.RawIOBase):
    """Reads a file, and opens it again at the same place after a failure."""

    def __init__(self, path: Path) -> None:
        self._path = path
        self._at = 0
        self._file: io.FileIO | None = None
        self._attempt(self._open)

    def readable(self) -> bool:
        """It can be read."""
        return True

    def seekable(self) -> bool:
        """It can be read on from any place."""
        return True

    def readinto(self, buffer: memoryview) -> int:  # type: ignore[override]
        """Read some bytes."""

        def read() -> int:
            return self._open().readinto(buffer)

        count = self._attempt(read)
        self._at += count
        return count

    def seek(self, offset: int, whence: int = io.SEEK_SET) -> int:
        """Go to a place."""

        def seek() -> int:
            return self._open().seek(offset, whence)

        self._at = self._attempt(seek)
        return self._at

    def tell(self) -> int:
        """Where the next byte is read."""
        return self._at

    def close(self) -> None:
        """Close the file."""
        self._drop()
        super().close()

    def _open(self) -> io.FileIO:
        if self._file is None:
            file = io.FileIO(self._path)
            try:
                file.seek(self._at)
            except BaseException:
                file.close()
                raise
            self._file = file
        return self._file

    def _drop(self) -> None:
        file, self._file = self._file, None
        if file is not None:
            file.close()

    def _attempt(self, action: Callable[[], T]) -> T:
        """Do something with the file, several times if need be."""
        for number, wait in enumerate(WAITS, start=1):
            try:
                return action()
            except OSError as error:
                if error.errno not in TRANSIENT:
                    raise
                _tell(self._path, error, number, wait)
            self._drop()
            still()
            time.sleep(wait)
        return action()


def _tell(path: Path, error: OSError, number: int, wait: float) -> None:
    for on_event in _listeners:
        on_event(
            {
                "kind": "reading_again",
                "severity": "warning",
                "code": None,
                "message": f"{path}: {error.strerror}; it is read again in {wait:g} s "
                f"(attempt {number} of {len(WAITS)})",
                "source": str(path),
                "attempt": number,
                "errno": error.errno,
            }
        )
