"""Documents written into a new file, and what was changed in them."""

from __future__ import annotations

import json
import os
from collections import Counter
from collections.abc import Callable, Iterable, Sequence
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any

from lumina.data.documents import MAX_RECORD_BYTES, SEPARATOR, read_documents
from lumina.data.quality.check import Check
from lumina.data.readers.reader import Document
from lumina.data.skipping import Skipped
from lumina.errors import LuminaError


@dataclass(frozen=True)
class Changed:
    """One change: where, by which check, and what."""

    source: str
    line: int | None
    check: str
    what: str


@dataclass
class Written:
    """What became of the documents.

    Attributes:
        read: documents that were read.
        written: documents in the new file.
        changed: documents that were changed, by check.
        left_out: documents and records that were left out, by check.
        ignored_fields: fields of records that nothing reads, which the copy lacks.
        changes: file with every change, a JSON object on each line.
    """

    read: int = 0
    written: int = 0
    changed: Counter[str] = field(default_factory=Counter)
    left_out: Counter[str] = field(default_factory=Counter)
    ignored_fields: Counter[str] = field(default_factory=Counter)
    changes: str = ""

    def to_dict(self) -> dict[str, Any]:
        """As JSON holds it."""
        counts = {"changed": dict(self.changed), "left_out": dict(self.left_out)}
        return {
            "read": self.read,
            "written": self.written,
            **counts,
            "ignored_fields": dict(self.ignored_fields),
            "changes": self.changes,
        }

    def in_words(self, target: str | os.PathLike[str]) -> str:
        """What is in the new file, on a few lines."""
        lines = [
            f"{target}: {self.written:,} of {self.read:,} documents; every change is "
            f"in {self.changes}"
        ]
        for what, counts in (("changed", self.changed), ("left out", self.left_out)):
            lines += [f"{what} by {name}: {n:,}" for name, n in counts.items()]
        if self.ignored_fields:
            names = ", ".join(
                f"{n} {times:,}" for n, times in self.ignored_fields.items()
            )
            lines.append(f"fields that nothing reads and the copy lacks: {names}")
        return "\n".join(lines)


UNREADABLE = "integrity"
"""The name under which records that cannot be read are counted."""


def write_mended(
    paths: Sequence[str | os.PathLike[str]],
    output: str | os.PathLike[str],
    mending: Sequence[Check],
    *,
    how: dict[str, Any] | None = None,
) -> Written:
    """Write what is left of documents, when each check has taken out what it finds.

    Beside the new file, one that is called like it with ".changes.jsonl" behind says
    every change. Neither may exist.

    Args:
        paths: what is read.
        output: the new file: ".jsonl" for records, ".txt" for texts, which
            ``<|endoftext|>`` divides there.
        mending: the checks, in this order.
        how: further options of `read_documents`.

    Raises:
        LuminaError: E002 for a file that exists; E005 for another suffix; E101 for a
            document that the new file cannot hold; E104 to E106 for paths.
    """
    target, log = require_new(output)
    found = Written(changes=str(log))
    parts = [path.with_name(path.name + ".partial") for path in (target, log)]
    try:
        with (
            open(parts[0], "w", encoding="utf-8", newline="") as handle,
            open(parts[1], "w", encoding="utf-8", newline="") as notes,
        ):

            def note(change: Changed) -> None:
                notes.write(json.dumps(asdict(change), ensure_ascii=False) + "\n")

            def skipped(one: Skipped) -> None:
                found.left_out[UNREADABLE] += 1
                what = f"left out: {one.code} {one.reason}"
                note(Changed(one.source, one.line, UNREADABLE, what))

            documents = read_documents(
                paths,
                errors="skip",
                on_skip=skipped,
                on_unread=found.ignored_fields.update,
                **(how or {}),
            )
            writer = (_Records if target.suffix == ".jsonl" else _Texts)(handle)
            writer.write(_mended(documents, mending, found, note))
            found.written = writer.count
        for part, path in zip(parts, (target, log), strict=True):
            os.replace(part, path)
    finally:
        for part in parts:
            part.unlink(missing_ok=True)
    return found


def require_new(output: str | os.PathLike[str]) -> tuple[Path, Path]:
    """The paths of a new file and of the one with its changes; errors as above."""
    target = Path(output).expanduser()
    log = target.with_name(target.name + ".changes.jsonl")
    for path in (target, log):
        if path.exists():
            raise LuminaError(
                "E002",
                f"{path} is there already, and nothing is overwritten",
                "name a new file",
            )
    if target.suffix not in (".jsonl", ".txt"):
        raise LuminaError(
            "E005",
            f"{target}: documents are written as .jsonl or .txt",
            "name a file with one of these endings",
        )
    return target, log


def _mended(
    documents: Iterable[Document],
    mending: Sequence[Check],
    found: Written,
    note: Callable[[Changed], None],
) -> Iterable[Document]:
    dropped = False  # the present document is left out, with its further pieces
    for document in documents:
        found.read += not document.continues
        if not document.continues:
            dropped = False
        elif dropped:
            continue
        left: Document | None = document
        for check in mending:
            assert left is not None
            mended = check.mend(left)
            if mended is None:
                continue
            note(Changed(document.source, document.line, check.name, mended.what))
            left = mended.document
            if left is None:
                found.left_out[check.name] += 1
                dropped = True
                break
            found.changed[check.name] += 1
        if left is not None:
            yield left


class _Records:
    """Writes each document as a JSON object on a line."""

    def __init__(self, handle: Any) -> None:
        self.handle = handle
        self.count = 0

    def write(self, documents: Iterable[Document]) -> None:
        """Write all documents; the pieces of one are joined."""
        pieces: list[Document] = []
        size = 0
        for document in documents:
            if pieces and not document.continues:
                self._record(pieces)
                pieces, size = [], 0
            pieces.append(document)
            size += len(document.text or "")
            if size > MAX_RECORD_BYTES // 2:
                raise LuminaError(
                    "E101",
                    f"{document.source}: a document of more than "
                    f"{MAX_RECORD_BYTES // 2:,} characters is too long for a record",
                    "write a .txt file instead",
                )
        if pieces:
            self._record(pieces)

    def _record(self, pieces: Sequence[Document]) -> None:
        first = pieces[0]
        if first.messages is not None:
            record: dict[str, Any] = {"messages": [_plain(m) for m in first.messages]}
        else:
            record = {"text": "".join(piece.text or "" for piece in pieces)}
        self.handle.write(json.dumps(record, ensure_ascii=False) + "\n")
        self.count += 1


def _plain(message: Any) -> dict[str, Any]:
    """A turn as a record holds it."""
    turn = dict(message)
    if turn.pop("no_content", False):
        turn["content"] = None
    return turn


class _Texts:
    """Writes texts, divided as text files are."""

    def __init__(self, handle: Any) -> None:
        self.handle = handle
        self.count = 0

    def write(self, documents: Iterable[Document]) -> None:
        """Write all documents, piece by piece."""
        for document in documents:
            if document.text is None:
                raise LuminaError(
                    "E101",
                    f"{document.source}, line {document.line}: a conversation cannot "
                    "be written into a .txt file",
                    "write a .jsonl file instead",
                )
            if not document.continues:
                if self.count:
                    self.handle.write(SEPARATOR + "\n")
                self.count += 1
            self.handle.write(document.text)
