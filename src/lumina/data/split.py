"""A first pass over the documents, and which of them are held out for evaluation.

The split follows the content of documents, not their order: shuffled or re-sharded
files give the same held-out set, and equal documents never stand on both sides.
"""

from __future__ import annotations

import hashlib
from array import array
from collections import Counter
from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any, Literal

import numpy as np
from numpy.typing import NDArray

from lumina.data.chat_tools import has_tools, tools_of
from lumina.data.documents import Document, Skipped, read_documents
from lumina.data.files import counted, most_first
from lumina.data.records import Message
from lumina.data.sources.entry import Access, Source
from lumina.data.sources.find import sources_of
from lumina.errors import LuminaError

SKIPPED_KEPT = 1000
"""Bad records listed one by one; further ones are only counted."""

UNREAD_KEPT = 1000
"""Names of unread fields listed one by one."""

OTHER_FIELDS = "(fields of other names)"
"""Where further unread fields are counted."""

SOURCES_KEPT = 20
"""Sources of which the forms of records are counted one by one."""

OTHER_SOURCES = "(further sources)"
"""Where the forms of records of further sources are counted."""

Progress = Callable[[str, int, int], None]


def count_form(forms: dict[str, Counter[str]], document: Document) -> None:
    """Count the form of the record that a document was, under its source."""
    if document.form:
        known = document.source in forms or len(forms) < SOURCES_KEPT
        source = document.source if known else OTHER_SOURCES
        forms.setdefault(source, Counter())[document.form] += 1


def document_bytes(document: Document) -> int:
    """UTF-8 bytes of what a document says."""
    if document.text is not None:
        return utf8_length(document.text)
    return sum(map(message_bytes, document.messages or ()))


def message_bytes(message: Message) -> int:
    """UTF-8 bytes of a turn's words, and of its calls of tools as JSON."""
    return utf8_length(message["content"]) + utf8_length(tools_of(message))


def utf8_length(text: str) -> int:
    """The number of bytes of `text` in UTF-8."""
    return len(text) if text.isascii() else len(text.encode())


@dataclass
class Scan:
    """What a pass over the documents found.

    Attributes:
        hashes: [N] uint64, of the content of every document.
        strata: [N] uint64, of every document a number that grows with the source in
            the order of reading, and within one with kind and length; see `_stratum`.
        bytes: UTF-8 bytes of all documents.
        conversations: how many documents are conversations.
        marked: how many of these say of a turn whether it bears loss.
        weighted: how many of these say of a turn how much it weighs in the loss.
        tools: how many of these have calls, results or definitions of tools.
        forms: how many records of each form every source has.
        skipped: the first bad records; `skipped_codes` counts all, by code.
        unread: fields of records that nothing reads, with how often each was there.
        left_out: members of archives that are no data, by their kind.
        removed: what `ascii_only` took out: characters, and texts left out whole.
        beyond: conversations that a bound left out, by the bound: file or dataset.
    """

    hashes: NDArray[np.uint64] = field(default_factory=lambda: np.zeros(0, np.uint64))
    strata: NDArray[np.uint64] = field(default_factory=lambda: np.zeros(0, np.uint64))
    bytes: int = 0
    conversations: int = 0
    marked: int = 0
    weighted: int = 0
    tools: int = 0
    forms: dict[str, Counter[str]] = field(default_factory=dict)
    skipped: list[Skipped] = field(default_factory=list)
    skipped_codes: Counter[str] = field(default_factory=Counter)
    unread: Counter[str] = field(default_factory=Counter)
    left_out: Counter[str] = field(default_factory=Counter)
    removed: Counter[str] = field(default_factory=Counter)
    beyond: Counter[str] = field(default_factory=Counter)

    def __len__(self) -> int:
        """The number of documents."""
        return len(self.hashes)

    def skip(self, record: Skipped) -> None:
        """Take note of a bad record."""
        self.skipped_codes[record.code] += 1
        if len(self.skipped) < SKIPPED_KEPT:
            self.skipped.append(record)

    def pass_over(self, kind: str, name: str) -> None:
        """Take note of a member of an archive that is not read."""
        self.left_out[kind] += 1

    def recognise(self, document: Document) -> None:
        """Take note of the form of the record that a document was."""
        count_form(self.forms, document)

    def go_beyond(self, bound: str) -> None:
        """Take note of a conversation that a bound leaves out."""
        self.beyond[bound] += 1

    def remove(self, characters: int, whole: bool) -> None:
        """Take note of a text out of which characters were taken."""
        self.removed["characters"] += characters
        self.removed["texts"] += whole

    def leave(self, names: list[str]) -> None:
        """Take note of a record's fields that nothing reads."""
        for name in names:
            shown = name[:80].encode(errors="backslashreplace").decode()
            known = shown in self.unread or len(self.unread) < UNREAD_KEPT
            self.unread[shown if known else OTHER_FIELDS] += 1


def scan(
    files: Sequence[Path] | Sequence[Source],
    *,
    errors: Literal["skip", "fatal"],
    on_progress: Progress | None = None,
    **how: Any,
) -> Scan:
    """Read everything once: find bad records, count, and hash every document.

    Args:
        files: what to read.
        errors: as for `read_documents`.
        on_progress: called with ("scan", done, total); amounts are bytes of the files.
        how: further options of `read_documents`.

    Raises:
        LuminaError: as `read_documents`; E105 when no document is left.
    """
    found = Scan()
    hashes, strata = array("Q"), array("Q")
    source, number, size = "", 0, 0
    sources = sources_of(files)
    total = sum(one.size for one in sources)
    access, done = Access(), 0
    digest = hashlib.blake2b(digest_size=8)
    for document in read_documents(
        sources,
        errors=errors,
        on_skip=found.skip,
        on_unread=found.leave,
        on_left_out=found.pass_over,
        on_removed=found.remove,
        on_beyond=found.go_beyond,
        access=access,
        **how,
    ):
        if not document.continues:
            if hashes:
                hashes[-1] = int.from_bytes(digest.digest(), "little")
            digest = hashlib.blake2b(digest_size=8)
            hashes.append(0)
            number += document.source != source
            source, size = document.source, 0
            strata.append(0)
            found.conversations += document.messages is not None
            found.marked += any("train" in m for m in document.messages or ())
            found.weighted += any("weight" in m for m in document.messages or ())
            found.tools += has_tools(document.messages or ())
            found.recognise(document)
        for part in content_parts(document):
            digest.update(part)
        size += document_bytes(document)
        strata[-1] = _stratum(number, document, size)
        found.bytes += document_bytes(document)
        if on_progress is not None:
            done = max(done, min(access.done(), total))
            on_progress("scan", done, total)
    if not hashes:
        raise _empty([one.name for one in sources], found)
    hashes[-1] = int.from_bytes(digest.digest(), "little")
    found.hashes = np.frombuffer(hashes, dtype=np.uint64)
    found.strata = np.frombuffer(strata, dtype=np.uint64)
    if on_progress is not None:
        on_progress("scan", total, total)
    return found


def _stratum(source: int, document: Document, size: int) -> int:
    """The number of the source, then the kind of document, then its length in bits."""
    return source << 8 | (document.messages is not None) << 7 | size.bit_length()


def content_parts(document: Document) -> Iterator[bytes]:
    """What of a document tells it from others."""
    if document.text is not None:
        yield document.text.encode()
    for message in document.messages or ():
        yield f"\0{message['role']}\0{message['content']}".encode()
        if tools := tools_of(message):
            yield f"\0{tools}".encode()


def _empty(files: Sequence[str], found: Scan) -> LuminaError:
    names = ", ".join(files[:3]) + (" ..." if len(files) > 3 else "")
    message = f"{names}: no usable document"
    if found.skipped:
        first = found.skipped[0]
        where = first.source if first.line is None else f"{first.source}:{first.line}"
        count = found.skipped_codes.total()
        message += f"; {count} bad records were skipped, the first: {where}: "
        message += f"{first.code} {first.reason}"
    if found.left_out:
        message += f"; not read: {counted(most_first(found.left_out))}"
    return LuminaError("E105", message, "give data with at least one document")


def eval_share(documents: int) -> float:
    """The share held out by default, by the number of documents."""
    if documents < 5000:
        return 0.15
    return 0.10 if documents <= 50000 else 0.05


@dataclass(frozen=True)
class Split:
    """Which side each document is on.

    Attributes:
        held_out: [N] bool.
        cut_at: for a single document, the byte from which it is held out (the line
            end that follows is where it is cut); otherwise None.
    """

    held_out: NDArray[np.bool_]
    cut_at: int | None = None

    @property
    def any(self) -> bool:
        """Whether anything is held out."""
        return self.cut_at is not None or bool(self.held_out.any())


def choose_split(
    found: Scan, fraction: float | None, *, stratified: bool = False
) -> Split:
    """Hold out a share of the documents (0: none), at least one and never all.

    Args:
        found: the documents.
        fraction: the share; None: by their number.
        stratified: the same share of every source, and within it of texts and
            conversations of every length, within one document.
    """
    count = len(found)
    none = Split(np.zeros(count, dtype=bool))
    share = eval_share(count) if fraction is None else fraction
    if share == 0:
        return none
    if count == 1:
        if found.conversations or found.bytes < 2:
            return none
        return Split(none.held_out, cut_at=int(found.bytes * (1 - share)))
    wanted = min(max(1, round(count * share)), count - 1)
    contents, inverse, copies = np.unique(
        found.hashes, return_inverse=True, return_counts=True
    )
    if stratified:
        first = np.unique(found.hashes, return_index=True)[1]
        chosen = _chosen_evenly(contents, copies, found.strata[first], wanted)
        if chosen.any() and not chosen.all():
            return Split(chosen[inverse])
    # Contents in order of their hash, as many as keep within the wanted number.
    chosen = np.cumsum(copies) <= wanted
    # One with many copies may not fit: later ones with fewer still do.
    left = wanted - int(copies[chosen].sum())
    for place in np.flatnonzero(~chosen & (copies <= left)):
        if copies[place] <= left:
            chosen[place] = True
            left -= int(copies[place])
        if not left:
            break
    if not chosen.any():
        chosen[np.argmin(copies)] = len(contents) > 1
    held_out = chosen[inverse]
    if not held_out.any():  # every document is the same
        held_out[:wanted] = True
    return Split(held_out)


def _chosen_evenly(
    contents: NDArray[np.uint64],
    copies: NDArray[np.intp],
    strata: NDArray[np.uint64],
    wanted: int,
) -> NDArray[np.bool_]:
    """One content in this many, in the order of strata and then of the hashes.

    So every stretch of that order has its share. All copies of a content go together.
    """
    count = int(copies.sum())
    chosen = np.zeros(len(contents), dtype=bool)
    seen = taken = 0
    for place in np.lexsort((contents, strata)).tolist():
        more = int(copies[place])
        seen += more
        if (taken + more) * count <= wanted * seen:
            chosen[place] = True
            taken += more
    return chosen


def split_documents(
    documents: Iterable[Document], split: Split
) -> Iterator[tuple[bool, Document]]:
    """Yield (held out, document) for every document or piece, in order.

    Raises:
        LuminaError: E101 when there are not as many documents as in the first pass.
    """
    if split.cut_at is not None:
        yield from _cut(documents, split.cut_at)
        return
    index = -1
    for document in documents:
        index += not document.continues
        if index >= len(split.held_out):
            break
        yield bool(split.held_out[index]), document
    if index + 1 != len(split.held_out):
        raise LuminaError(
            "E101",
            "the data changed while it was being read",
            "wait until nothing writes to it, and start again",
        )


def _cut(documents: Iterable[Document], cut_at: int) -> Iterator[tuple[bool, Document]]:
    """Divide the pieces of one text at the line end nearest after `cut_at` bytes."""
    done = 0
    for document in documents:
        text = document.text or ""
        size = utf8_length(text)
        if done >= cut_at or done + size <= cut_at:
            # A later piece only continues the held-out text if that has begun.
            yield done >= cut_at, document
        else:
            at = _line_end(text, cut_at - done)
            if at:
                yield False, replace(document, text=text[:at])
            yield True, replace(document, text=text[at:], continues=False)
        done += size


def _line_end(text: str, target: int) -> int:
    """A character index to cut at: a line end near byte `target`, inside the text."""
    place = len(text.encode()[:target].decode(errors="ignore"))
    after = text.find("\n", place) + 1
    if 0 < after < len(text):
        return after
    before = text.rfind("\n", 0, place) + 1
    return before or min(max(place, 1), len(text) - 1)
