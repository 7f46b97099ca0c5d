"""The fields of a message in the wire format of Protocol Buffers, with bounds."""

from __future__ import annotations

import struct
from collections.abc import Iterator

VARINT, FIXED64, BYTES, FIXED32 = 0, 1, 2, 5

Field = tuple[int, int | bytes | float]
"""Number and value: an int, the bytes of a text or message, or a float."""


def fields(data: bytes) -> Iterator[Field]:
    """Yield each field of a message.

    Nothing is allocated by a length that the data only claims: every length is compared
    with what is there.

    Raises:
        ValueError: the data is not such a message.
    """
    at, end = 0, len(data)
    while at < end:
        key, at = _varint(data, at)
        number, kind = key >> 3, key & 7
        if number == 0:
            raise ValueError("a field without a number")
        if kind == VARINT:
            value, at = _varint(data, at)
            yield number, value
        elif kind == BYTES:
            size, at = _varint(data, at)
            if size > end - at:
                raise ValueError(f"a field of {size:,} bytes where {end - at:,} remain")
            yield number, data[at : at + size]
            at += size
        elif kind in (FIXED32, FIXED64):
            size = 4 if kind == FIXED32 else 8
            if size > end - at:
                raise ValueError("the message ends within a number")
            (number_value,) = struct.unpack_from("<f" if size == 4 else "<d", data, at)
            yield number, float(number_value)
            at += size
        else:
            raise ValueError(f"a field of the unknown kind {kind}")


def _varint(data: bytes, at: int) -> tuple[int, int]:
    value = 0
    for shift in range(0, 70, 7):
        if at >= len(data):
            raise ValueError("the message ends within a number")
        byte = data[at]
        at += 1
        value |= (byte & 0x7F) << shift
        if byte < 0x80:
            return value, at
    raise ValueError("a number of more than ten bytes")
