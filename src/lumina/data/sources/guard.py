"""A stream that checks what comes out of a compressed file or an archive."""

from __future__ import annotations

import io
import lzma
import zipfile
import zlib
from collections.abc import Callable
from typing import BinaryIO

from lumina.data.sources.entry import RATIO_FROM, Damaged, Limits

DAMAGE: tuple[type[Exception], ...] = (
    EOFError,
    OSError,
    zlib.error,
    lzma.LZMAError,
    zipfile.BadZipFile,
    ValueError,
    NotImplementedError,
)
"""What the standard library raises for bytes that cannot be decompressed."""

BLOCK = 2**16


class Unpacked:
    """How many bytes a file has given, of how many that were read.

    Args:
        name: of the file.
        limits: bounds.
        position: bytes of the file that are read.
    """

    def __init__(self, name: str, limits: Limits, position: Callable[[], int]) -> None:
        self.name = name
        self.limits = limits
        self.position = position
        self.given = 0

    def add(self, count: int) -> None:
        """Take note of bytes that were given.

        Raises:
            Damaged: more than the limits allow.
        """
        self.given += count
        limits = self.limits
        if self.given > limits.unpacked_bytes:
            raise Damaged(
                f"{self.name} unpacks to more than {limits.unpacked_bytes:,} bytes",
                "raise --max-unpacked-bytes if this is right",
            )
        if self.given > RATIO_FROM and self.given > limits.ratio * self.position():
            raise Damaged(
                f"{self.name} unpacks to more than {limits.ratio:g} times its size, "
                "as files do that are made to fill a machine",
                "raise --max-unpacking-ratio if this is right",
            )


class Guarded(io.RawIOBase):
    """The bytes of `inner`, counted; what goes wrong in it is `Damaged`.

    Args:
        inner: is read.
        counts: take note of the bytes; each may raise `Damaged`.
        context: added to what is said of damage.
        size: bytes that have to come; None: as many as there are.
    """

    def __init__(
        self,
        inner: BinaryIO,
        counts: tuple[Unpacked, ...],
        context: Callable[[], str] = lambda: "",
        size: int | None = None,
    ) -> None:
        self.inner = inner
        self.counts = counts
        self.context = context
        self.left = size
        self.broken: Damaged | None = None

    def readable(self) -> bool:
        """It can be read."""
        return True

    def readinto(self, buffer: memoryview) -> int:  # type: ignore[override]
        """Read some bytes.

        Raises:
            Damaged: there are none, or too many.
        """
        if self.broken is not None:
            raise self.broken
        try:
            data = self._next(min(len(buffer), BLOCK))
            for one in self.counts:
                one.add(len(data))
        except Damaged as damage:
            self.broken = damage
            raise
        buffer[: len(data)] = data
        return len(data)

    def _next(self, most: int) -> bytes:
        if self.left is not None:
            most = min(most, self.left)
            if not most:
                return b""
        try:
            data = self.inner.read(most)
        except Damaged:
            raise
        except DAMAGE as error:
            said = str(error) or type(error).__name__
            raise Damaged(f"damaged or cut short ({said}){self.context()}") from None
        if self.left is not None:
            self.left -= len(data)
            if not data:
                raise Damaged(
                    f"cut short: {self.left:,} bytes are missing{self.context()}"
                )
        return data

    def close(self) -> None:
        """Close what is read."""
        if not self.closed:
            self.inner.close()
        super().close()


def buffered(stream: io.RawIOBase) -> BinaryIO:
    """The stream, with lines and blocks of any size."""
    return io.BufferedReader(stream, BLOCK)
