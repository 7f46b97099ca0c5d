"""The lines of a file as text, none longer than a limit, and what they cannot be."""

from __future__ import annotations

import codecs
from collections.abc import Iterator
from typing import BinaryIO

from lumina.data.readers.encodings import UTF_8
from lumina.data.readers.reader import Reading
from lumina.data.records import BadRecord
from lumina.data.sources.entry import Damaged

_OTHER_ENCODINGS = (
    (codecs.BOM_UTF32_LE, "UTF-32"),
    (codecs.BOM_UTF32_BE, "UTF-32"),
    (codecs.BOM_UTF16_LE, "UTF-16"),
    (codecs.BOM_UTF16_BE, "UTF-16"),
)

_POINTER = b"version https://git-lfs.github.com/spec/v1"

_OTHER_FILES = (
    (b"\x1f\x8b", "compressed by gzip", ".gz"),
    (b"BZh91AY&SY", "compressed by bzip2", ".bz2"),
    (b"\xfd7zXZ\0", "compressed by xz", ".xz"),
    (b"\x28\xb5\x2f\xfd", "compressed by zstd", ".zst"),
    (b"PK\x03\x04", "a zip archive", ".zip"),
    (b"PAR1\x15", "a Parquet file", ".parquet"),
    (b"ARROW1\0\0", "an Arrow file", ".arrow"),
)
"""First bytes of files that are no text -> what they are, and the suffix they need."""


Line = tuple[str, int, int, BadRecord | None]
"""A line of a file: its text with the line end, its number from 1, the place of its
first byte in the file, and why it cannot be used (None for a good line). Of a bad line
the text is what can be shown of it. It is a plain tuple: all data is read in lines."""


def lines(
    reading: Reading, handle: BinaryIO, start: int = 0, number: int = 1
) -> Iterator[Line]:
    """The lines of an entry, good and bad ones.

    Args:
        reading: the entry, for its limit and for what is wrong with the whole file.
        handle: the entry's bytes.
        start: begin at this byte, which follows a line end; needs a seekable handle.
        number: the line that begins there.
    """
    encoding = reading.encoding
    shown = encoding.upper()
    limit = min(reading.options.max_record_bytes, 2**62)  # what can be asked for
    if start:
        handle.seek(start - 1)
        if handle.read(1) != b"\n":
            raise Damaged(
                "it changed since the place to go on from was kept",
                "restore the file, or begin again",
            )
    offset, number = start, number - 1
    while data := handle.readline(limit + 1):
        number += 1
        begin, size, skipped = offset, len(data), 0
        if number == 1:
            if (wrong := whole_file(data, encoding)) is not None:
                yield "", 1, 0, wrong
                return
            if data.startswith(codecs.BOM_UTF8):
                data, skipped = data[3:], 3
        if size > limit:
            if not data.endswith(b"\n"):
                size += _skip_line(handle)
            offset += size
            yield (
                "\n",
                number,
                begin,
                BadRecord(
                    "E101",
                    f"the line has {size:,} bytes, over the limit of "
                    f"{limit:,} (max_record_bytes)",
                ),
            )
            continue
        offset += size
        bad = None
        if b"\0" in data:
            at = begin + skipped + data.index(b"\0")
            bad = BadRecord("E103", f"a NUL byte, which no text has, at byte {at}")
        try:
            text = data.decode(encoding)
        except UnicodeDecodeError as error:
            at = begin + skipped + error.start
            byte = data[error.start]
            bad = bad or BadRecord("E103", f"not {shown} at byte {at} (0x{byte:02x})")
            text = data.decode(encoding, errors="replace")
        yield text, number, begin, bad


def whole_file(data: bytes, encoding: str = UTF_8) -> BadRecord | None:
    """Why a file whose first line this is cannot be read at all."""
    for mark, name in _OTHER_ENCODINGS:
        if data.startswith(mark):
            return BadRecord("E103", f"the file is {name}, not {encoding.upper()}")
    if encoding != UTF_8 and data.startswith(codecs.BOM_UTF8):
        return BadRecord(
            "E103",
            f"the file begins with the mark of UTF-8, and --encoding says {encoding}",
            "leave the file out of --encoding: PATTERN=NAME states some files only",
        )
    if data.startswith(_POINTER):
        return BadRecord("E101", "this is a Git LFS pointer; run git lfs pull")
    for mark, what, suffix in _OTHER_FILES:
        if data.startswith(mark):
            return BadRecord(
                "E101",
                f"this file is {what}, and its name does not say so",
                f"rename it so that its name ends in {suffix}",
            )
    if (form := _unmarked_utf16(data)) is not None:
        return BadRecord(
            "E103",
            f"the file looks like {form} without a mark, not UTF-8 "
            f"(iconv -f {form} -t UTF-8)",
        )
    return None


def _unmarked_utf16(data: bytes) -> str | None:
    """The form of UTF-16 that NUL bytes in alternate positions speak for."""
    head = data[:4096]
    for name, first in (("UTF-16LE", 1), ("UTF-16BE", 0)):
        here = head[first::2].count(0)
        if 4 * here >= len(head) and not head[1 - first :: 2].count(0):
            return name
    return None


def _skip_line(handle: BinaryIO) -> int:
    """Read past the rest of a line in small blocks; how many bytes that was."""
    skipped = 0
    while block := handle.readline(2**16):
        skipped += len(block)
        if block.endswith(b"\n"):
            break
    return skipped
