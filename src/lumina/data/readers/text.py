"""Running text. A file is one document, or several where it holds a separator."""

from __future__ import annotations

from collections.abc import Iterator

from lumina.data.readers.lines import Line, lines
from lumina.data.readers.reader import Document, Reader, Reading
from lumina.data.sources.entry import Place

SEPARATOR = "<|endoftext|>"
"""Divides the documents of a text file."""

PIECE_BYTES = 2**16
"""A longer text is handed over in pieces of about this size: encoding one takes some
hundred times its size in memory."""

PROSE = (".md", ".markdown", ".rst", ".org", ".tex", ".adoc")
"""Suffixes of texts with marks in them."""

SOURCE = (
    ".py", ".pyi", ".c", ".h", ".cc", ".cpp", ".cxx", ".hpp", ".hh", ".cu", ".cuh",
    ".cs", ".java", ".kt", ".scala", ".go", ".rs", ".swift", ".js", ".jsx", ".ts",
    ".tsx", ".mjs", ".rb", ".php", ".pl", ".pm", ".lua", ".r", ".jl", ".hs", ".ml",
    ".ex", ".exs", ".erl", ".clj", ".lisp", ".el", ".scm", ".f90", ".f", ".for",
    ".pas", ".d", ".nim", ".zig", ".v", ".vhd", ".sv", ".asm", ".s", ".sh", ".bash",
    ".ps1", ".bat", ".sql", ".html", ".htm", ".xml", ".css", ".scss", ".yaml", ".yml",
    ".toml", ".ini", ".cfg", ".cmake", ".mk", ".proto", ".dart", ".m", ".mm",
)  # fmt: skip
"""Suffixes of source text."""


class Text(Reader):
    """Files of text, as it stands; blank lines are text like any other."""

    name = "text"
    suffixes = (".txt", ".text")
    by_name = (*PROSE, *SOURCE)
    decodes = True

    def read(self, reading: Reading) -> Iterator[Document]:
        """The pieces from `reading.begin` on."""
        with reading.entry.open() as handle:
            cutter = _Cutter(reading)
            begin = reading.begin
            start, number = 0, 1
            if begin.hint:
                start, number, started = begin.hint
                cutter.started = bool(started)
                cutter.number = begin.record
            for piece in cutter.pieces(lines(reading, handle, start, number)):
                reading.used = True
                if piece.place.record >= begin.record:
                    yield piece


class _Cutter:
    """Cuts lines into documents, and long documents into pieces."""

    def __init__(self, reading: Reading) -> None:
        self.reading = reading
        self.entry = reading.entry
        self.entry_number = reading.number
        self.number = 0  # of the next piece
        self.parts: list[str] = []
        self.size = 0
        self.line = 1
        self.start: int | None = 0  # where the first line begins; None: within a line
        self.started = False  # a piece of the present document is out already

    def pieces(self, lines: Iterator[Line]) -> Iterator[Document]:
        """Yield documents, long ones in pieces."""
        for line in lines:
            text, number, start, bad = line
            if bad is not None:
                self.reading.bad(bad.code, bad.reason, number, hint=bad.hint)
                continue
            if self.size >= PIECE_BYTES and self._full(text):
                yield from self._flush()
            if SEPARATOR not in text:
                if not self.parts:
                    self.line, self.start = number, start
                self.parts.append(text)
                self.size += len(text)
                continue
            first, *others = text.split(SEPARATOR)
            self._add(first, number, start)
            for other in others:
                yield from self._flush(trim=True)
                self.started = False
                # The line end after a separator belongs to it.
                self._add(other.lstrip("\r\n"), number, None)
        yield from self._flush()

    def _add(self, text: str, number: int, start: int | None) -> None:
        if not self.parts:
            self.line, self.start = number, start
        if text:
            self.parts.append(text)
            self.size += len(text)

    def _full(self, next_line: str) -> bool:
        """Whether to cut before `next_line`, where there is enough for a piece.

        Between two lines that begin and end with no other white space, no tokenizer
        in use joins across the cut, so the tokens are those of the whole text.
        """
        clean = bool(self.parts[-1].strip()) and not next_line[0].isspace()
        return clean or self.size >= 2 * PIECE_BYTES

    def _flush(self, trim: bool = False) -> Iterator[Document]:
        text = "".join(self.parts)
        self.parts, self.size = [], 0
        if trim:
            text = text.rstrip("\r\n")
        if not (text if self.started else text.strip()):
            return
        hint: tuple[int, ...] = ()
        if self.entry.seekable and self.start is not None:
            hint = (self.start, self.line, int(self.started))
        place = Place(self.entry_number, self.number, hint)
        yield Document(text, None, self.entry.name, self.line, self.started, place)
        self.number += 1
        self.started = True


READER = Text()
