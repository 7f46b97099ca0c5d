"""Files on disk -> `Document`s, with a policy for records that are bad.

A `.txt` file is one document, or several where it holds ``<|endoftext|>`` between
them; blank lines are text like any other. A `.jsonl` file holds a record a line. Files
are read line by line and no line beyond a limit is ever held in memory.
"""

from __future__ import annotations

import codecs
import json
import os
from collections.abc import Callable, Iterable, Iterator
from dataclasses import dataclass
from typing import BinaryIO, Literal

from lumina.data.files import file_format, find_files
from lumina.data.records import (
    BadRecord,
    Message,
    each_field_once,
    parse_record,
    unread_fields,
)
from lumina.errors import LuminaError

SEPARATOR = "<|endoftext|>"
"""Divides the documents of a text file."""

PIECE_BYTES = 2**16
"""A longer text is handed over in pieces of about this size: encoding one takes some
hundred times its size in memory."""

MAX_RECORD_BYTES = 8 * 2**20
"""The default limit of a line."""

_OTHER_ENCODINGS = (
    (codecs.BOM_UTF32_LE, "UTF-32"),
    (codecs.BOM_UTF32_BE, "UTF-32"),
    (codecs.BOM_UTF16_LE, "UTF-16"),
    (codecs.BOM_UTF16_BE, "UTF-16"),
)

_POINTER = b"version https://git-lfs.github.com/spec/v1"

_HINTS = {
    "E101": "correct or remove it, or leave bad records out with --data-errors skip",
    "E102": 'a record is {"text": ...} or {"messages": [{"role", "content"}, ...]}; '
    "correct it, or leave bad records out with --data-errors skip",
    "E103": "convert the file to UTF-8 (iconv -f FROM -t UTF-8), or leave bad records "
    "out with --data-errors skip",
    "E105": "fill or remove it, or leave bad records out with --data-errors skip",
    "E106": "chmod +r it, or leave unreadable files out with --data-errors skip",
}


@dataclass(frozen=True, slots=True)
class Document:
    """One text or one conversation, and where it came from.

    Attributes:
        text: the text, or None for a conversation.
        messages: the turns of a conversation, or None for a text.
        source: path of the file.
        line: its first line, from 1.
        continues: this is a further piece of the document before. A long text is
            handed over in pieces, cut at line ends, so that memory stays bounded.
    """

    text: str | None
    messages: tuple[Message, ...] | None
    source: str
    line: int
    continues: bool = False


@dataclass(frozen=True, slots=True)
class Skipped:
    """A bad record that was left out: where it is, and why."""

    source: str
    line: int | None
    code: str
    reason: str


def read_documents(
    paths: Iterable[str | os.PathLike[str]],
    *,
    errors: Literal["skip", "fatal"] = "fatal",
    max_record_bytes: int = MAX_RECORD_BYTES,
    on_skip: Callable[[Skipped], None] | None = None,
    on_unread: Callable[[list[str]], None] | None = None,
) -> Iterator[Document]:
    """Yield the documents of files, folders and globs, in a fixed order.

    Args:
        paths: what to read; see `find_files`.
        errors: "fatal" raises at the first bad record, "skip" leaves it out.
        max_record_bytes: a longer line is a bad record (E101).
        on_skip: is called with every record left out.
        on_unread: is called, for every record, with its fields that nothing reads.

    Raises:
        LuminaError: E104 and other errors about a named path, always; with "fatal"
            also E101 format, E102 fields, E103 encoding, E105 empty, E106 permission.
    """
    for path in find_files(paths):
        report = _Report(str(path), errors == "fatal", on_skip, on_unread)
        reader = _TextFile if file_format(path) == "text" else _JsonLines
        try:
            with open(path, "rb") as handle:
                yield from reader(report, max_record_bytes).read(handle)
        except PermissionError:
            report.bad("E106", "this user may not read it")
        except FileNotFoundError:
            raise LuminaError(
                "E104", f"{path}: the file has gone", "restore it, and start again"
            ) from None
        if not report.used:
            report.bad("E105", "nothing in it")


class _Report:
    """The policy for bad records of one file."""

    def __init__(
        self,
        source: str,
        fatal: bool,
        on_skip: Callable[[Skipped], None] | None,
        on_unread: Callable[[list[str]], None] | None,
    ) -> None:
        self.source = source
        self.fatal = fatal
        self.on_skip = on_skip
        self.on_unread = on_unread
        self.used = False  # whether anything was said about, or taken from, the file

    def bad(
        self, code: str, reason: str, line: int | None = None, hint: str | None = None
    ) -> None:
        """Raise, or report the record and carry on."""
        self.used = True
        if self.fatal:
            where = self.source if line is None else f"{self.source}, line {line}"
            raise LuminaError(code, f"{where}: {reason}", hint or _HINTS[code])
        if self.on_skip is not None:
            self.on_skip(Skipped(self.source, line, code, reason))


class _Lines:
    """Reads a file's lines as text, none longer than the limit."""

    def __init__(self, report: _Report, limit: int) -> None:
        self.report = report
        self.limit = min(limit, 2**62)  # what a read can be asked for

    def lines(self, handle: BinaryIO) -> Iterator[tuple[int, str]]:
        """Yield (line number, text with its line end) of every good line."""
        offset = 0
        number = 0
        while data := handle.readline(self.limit + 1):
            number += 1
            if number == 1:
                for mark, name in _OTHER_ENCODINGS:
                    if data.startswith(mark):
                        self.report.bad("E103", f"the file is {name}, not UTF-8", 1)
                        return
                if data.startswith(_POINTER):
                    self.report.bad(
                        "E101", "this is a Git LFS pointer; run git lfs pull", 1
                    )
                    return
                if (form := _unmarked_utf16(data)) is not None:
                    self.report.bad(
                        "E103",
                        f"the file looks like {form} without a mark, not UTF-8 "
                        f"(iconv -f {form} -t UTF-8)",
                        1,
                    )
                    return
            start, size = offset, len(data)
            if size > self.limit and not data.endswith(b"\n"):
                size += _skip_line(handle)
            offset += size
            if size > self.limit:
                self.report.bad(
                    "E101",
                    f"the line has {size:,} bytes, over the limit of "
                    f"{self.limit:,} (max_record_bytes)",
                    number,
                )
                continue
            if (nul := data.find(b"\0")) >= 0:
                self.report.bad(
                    "E103",
                    f"a NUL byte, which no text has, at byte {start + nul}",
                    number,
                )
                continue
            if number == 1 and data.startswith(codecs.BOM_UTF8):
                data, start = data[3:], start + 3
            try:
                yield number, data.decode()
            except UnicodeDecodeError as error:
                at = start + error.start
                byte = data[error.start]
                self.report.bad(
                    "E103", f"not UTF-8 at byte {at} (0x{byte:02x})", number
                )


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


class _JsonLines(_Lines):
    """A record a line."""

    def read(self, handle: BinaryIO) -> Iterator[Document]:
        """Yield a document for every good record; blank lines are nothing."""
        report = self.report
        for number, line in self.lines(handle):
            # A mark before a record is left from files that were joined.
            line = line.removeprefix("\ufeff")
            if not line.strip():
                continue
            try:
                record = _parse_json(line)
                content = parse_record(record)
            except BadRecord as bad:
                report.bad(bad.code, bad.reason, number, bad.hint)
                continue
            report.used = True
            if report.on_unread is not None:
                report.on_unread(unread_fields(record))
            if isinstance(content, str):
                yield Document(content, None, report.source, number)
            else:
                yield Document(None, content, report.source, number)


def _parse_json(line: str) -> object:
    try:
        return json.loads(line, object_pairs_hook=each_field_once)
    except json.JSONDecodeError as error:
        reason = f"not JSON: {error.msg} at column {error.colno}"
        if line.strip() in ("{", "["):
            reason += " (a .jsonl file has one whole object on every line)"
        raise BadRecord("E101", reason) from None
    except (ValueError, RecursionError) as error:
        raise BadRecord("E101", f"not usable JSON: {error}") from None


class _TextFile(_Lines):
    """Running text; `SEPARATOR` divides documents."""

    def __init__(self, report: _Report, limit: int) -> None:
        super().__init__(report, limit)
        self.parts: list[str] = []
        self.size = 0
        self.line = 1
        self.started = False  # a piece of the present document is out already

    def read(self, handle: BinaryIO) -> Iterator[Document]:
        """Yield documents, long ones in pieces."""
        for number, line in self.lines(handle):
            if self._full(line):
                yield from self._flush()
            first, *others = line.split(SEPARATOR)
            self._add(first, number)
            for text in others:
                yield from self._flush(trim=True)
                self.started = False
                # The line end after a separator belongs to it.
                self._add(text.lstrip("\r\n"), number)
        yield from self._flush()

    def _add(self, text: str, number: int) -> None:
        if not self.parts:
            self.line = number
        if text:
            self.parts.append(text)
            self.size += len(text)

    def _full(self, next_line: str) -> bool:
        """Whether to cut before `next_line`.

        Between two lines that begin and end with no other white space, no tokenizer
        in use joins across the cut, so the tokens are those of the whole text.
        """
        if self.size < PIECE_BYTES:
            return False
        clean = bool(self.parts[-1].strip()) and not next_line[0].isspace()
        return clean or self.size >= 2 * PIECE_BYTES

    def _flush(self, trim: bool = False) -> Iterator[Document]:
        text = "".join(self.parts)
        self.parts, self.size = [], 0
        if trim:
            text = text.rstrip("\r\n")
        if not (text if self.started else text.strip()):
            return
        self.report.used = True
        yield Document(text, None, self.report.source, self.line, self.started)
        self.started = True
