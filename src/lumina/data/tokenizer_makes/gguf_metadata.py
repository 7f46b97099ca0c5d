"""The metadata of a GGUF file, with bounds.

The file is mapped into memory, every count and length is compared with what is left of
it, and values that are not asked for are passed over without being made. The format is
that of docs/gguf.md in github.com/ggml-org/ggml, versions 2 and 3.
"""

from __future__ import annotations

import mmap
import struct
from collections.abc import Callable
from pathlib import Path
from typing import Any

_NUMBERS = {0: "B", 1: "b", 2: "H", 3: "h", 4: "I", 5: "i", 6: "f", 7: "?",
            10: "Q", 11: "q", 12: "d"}  # fmt: skip
_TEXT, _ARRAY = 8, 9
_MOST_ENTRIES = 2**16


class _Reader:
    """Reads values one after the other."""

    def __init__(self, data: mmap.mmap) -> None:
        self.data, self.at, self.end = data, 0, len(data)

    def need(self, size: int) -> None:
        if size > self.end - self.at:
            raise ValueError(
                f"{size:,} bytes are announced where {self.end - self.at:,} remain"
            )

    def numbers(self, form: str, count: int) -> tuple[Any, ...]:
        size = struct.calcsize(f"<{form}") * count
        self.need(size)
        values = struct.unpack_from(f"<{count}{form}", self.data, self.at)
        self.at += size
        return values

    def size(self) -> int:
        return int(self.numbers("Q", 1)[0])

    def text(self) -> bytes:
        size = self.size()
        self.need(size)
        self.at += size
        return self.data[self.at - size : self.at]

    def value(self, kind: int, kept: bool, depth: int = 0) -> Any:
        """One value; None where it is only passed over."""
        if kind == _TEXT:
            if kept:
                return self.text().decode()
            size = self.size()
            self.need(size)
            self.at += size
            return None
        if kind == _ARRAY:
            return self.array(kept, depth + 1)
        if kind not in _NUMBERS:
            raise ValueError(f"a value of the unknown type {kind}")
        return self.numbers(_NUMBERS[kind], 1)[0]

    def array(self, kept: bool, depth: int) -> list[Any] | None:
        if depth > 2:
            raise ValueError("arrays within arrays within arrays")
        (kind,) = self.numbers("I", 1)
        count = self.size()
        if kind in _NUMBERS:
            self.need(count * struct.calcsize(_NUMBERS[kind]))
            if kept:
                return list(self.numbers(_NUMBERS[kind], count))
            self.at += count * struct.calcsize(_NUMBERS[kind])
            return None
        self.need(count * 8)  # a text has at least its length
        values = [self.value(kind, kept, depth) for _ in range(count)]
        return values if kept else None


def read_metadata(path: Path, wanted: Callable[[str], bool]) -> dict[str, Any]:
    """The metadata of a GGUF file.

    Args:
        path: the file.
        wanted: whether the value of a key is to be returned.

    Raises:
        ValueError: it is not such a file, or it is damaged.
    """
    if path.stat().st_size < 24:
        raise ValueError("the file is too short")
    with (
        open(path, "rb") as handle,
        mmap.mmap(handle.fileno(), 0, access=mmap.ACCESS_READ) as data,
    ):
        reader = _Reader(data)
        if bytes(data[:4]) != b"GGUF":
            raise ValueError("it does not begin with GGUF")
        reader.at = 4
        (version,) = reader.numbers("I", 1)
        if version not in (2, 3):
            raise ValueError(f"its version is {version}; 2 and 3 are known")
        reader.size()  # of tensors
        entries = reader.size()
        if entries > _MOST_ENTRIES:
            raise ValueError(f"{entries:,} entries of metadata are announced")
        found = {}
        for _ in range(entries):
            key = reader.text().decode()
            (kind,) = reader.numbers("I", 1)
            value = reader.value(kind, wanted(key))
            if wanted(key):
                found[key] = value
        return found
