"""Compressed files as streams."""

from __future__ import annotations

import bz2
import gzip
import io
import lzma
from collections.abc import Callable
from typing import Any, BinaryIO, cast

from lumina.data.libraries import needed
from lumina.data.sources.entry import Damaged

XZ_MEMORY = 2**30
"""The most memory that the dictionary of an .xz file may take."""

_BLOCK = 2**16

_ZSTD_BLOCK = 2**10
"""A block of this many compressed bytes gives at most 32 MiB."""


class Frames(io.RawIOBase):
    """What a file's frames, one after another, decompress to.

    Args:
        raw: the compressed file.
        new: makes a decompressor for a frame; it has `decompress(data, most)`,
            `needs_input`, `eof` and `unused_data`.
        block: how many compressed bytes are read at once.
        padding: zeros may stand between frames and after the last one.
    """

    def __init__(
        self,
        raw: BinaryIO,
        new: Callable[[], Any],
        block: int = _BLOCK,
        padding: bool = False,
    ) -> None:
        self.raw = raw
        self.new = new
        self.block = block
        self.padding = padding
        self.engine: Any = None
        self.held = b""

    def readable(self) -> bool:
        """It can be read."""
        return True

    def readinto(self, buffer: memoryview) -> int:  # type: ignore[override]
        """Read some bytes.

        Raises:
            EOFError: the file ends within a frame.
        """
        while not self.held:
            if self.engine is None or self.engine.eof:
                data = self.engine.unused_data if self.engine is not None else b""
                data = self._begin(data)
                if not data:
                    return 0
                self.engine = self.new()
            elif self.engine.needs_input:
                data = self.raw.read(self.block)
                if not data:
                    raise EOFError("the file ends within a compressed block")
            else:
                data = b""
            self.held = self.engine.decompress(data, _BLOCK)
        part = self.held[: len(buffer)]
        self.held = self.held[len(buffer) :]
        buffer[: len(part)] = part
        return len(part)

    def _begin(self, data: bytes) -> bytes:
        """The first bytes of the next frame; none at the end of the file."""
        while True:
            if self.padding:
                data = data.lstrip(b"\0")
            if data:
                return data
            data = self.raw.read(self.block)
            if not data:
                return b""

    def close(self) -> None:
        """Close the compressed file."""
        if not self.closed:
            self.raw.close()
        super().close()


class _ZstdFrame:
    """A frame of zstd, as `Frames` asks for it."""

    needs_input = True

    def __init__(self) -> None:
        self._frame = needed("zstandard").ZstdDecompressor().decompressobj()

    def decompress(self, data: bytes, most: int) -> bytes:
        """What some bytes of the frame give."""
        try:
            return cast(bytes, self._frame.decompress(data))
        except needed("zstandard").ZstdError as error:
            if "too much memory" in str(error):
                raise Damaged(
                    "it was compressed with a window of more than 128 MiB",
                    "compress it again, without --long or --ultra",
                ) from None
            raise ValueError(str(error)) from None

    @property
    def eof(self) -> bool:
        """Whether the frame has ended."""
        return bool(self._frame.eof)

    @property
    def unused_data(self) -> bytes:
        """What comes after the frame."""
        return bytes(self._frame.unused_data)


def _xz(raw: BinaryIO) -> BinaryIO:
    def frame() -> Any:
        return lzma.LZMADecompressor(memlimit=XZ_MEMORY)

    return io.BufferedReader(Frames(raw, frame, padding=True), _BLOCK)


def _zstd(raw: BinaryIO) -> BinaryIO:
    needed("zstandard")  # before anything is read
    return io.BufferedReader(Frames(raw, _ZstdFrame, _ZSTD_BLOCK), _BLOCK)


COMPRESSIONS: dict[str, Callable[[BinaryIO], BinaryIO]] = {
    ".gz": lambda raw: cast(BinaryIO, gzip.GzipFile(fileobj=raw)),
    ".bz2": lambda raw: cast(BinaryIO, bz2.BZ2File(raw)),
    ".xz": _xz,
    ".zst": _zstd,
}
"""Suffix -> what reads such a file. Each raises where the file is damaged."""
