"""The contract of a format: an entry's bytes become documents."""

from __future__ import annotations

import math
from abc import ABC, abstractmethod
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from typing import Any, NamedTuple

from lumina.data.readers.encodings import Encodings, encoding_of
from lumina.data.records import (
    BadRecord,
    Content,
    Message,
    RecordReader,
    unread_fields,
)
from lumina.data.skipping import Policy
from lumina.data.sources.entry import START, Entry, Place


@dataclass(frozen=True, slots=True)
class Document:
    """One text or one conversation, and where it came from.

    Attributes:
        text: the text, or None for a conversation.
        messages: the turns of a conversation, or None for a text.
        source: path of the file, or name of the member of an archive.
        line: its first line, from 1; where there are no lines, its number.
        continues: this is a further piece of the document before. A long text is
            handed over in pieces, cut at line ends, so that memory stays bounded.
        place: where reading begins again with this document.
        form: of the record that it was; "" for a text that is no record.
        quality: what a field of the record says of it; None where no field is named.
    """

    text: str | None
    messages: tuple[Message, ...] | None
    source: str
    line: int
    continues: bool = False
    place: Place = START
    form: str = ""
    quality: float | None = None


@dataclass(frozen=True)
class ReadOptions:
    """How files are read.

    Attributes:
        max_record_bytes: a longer line or record is a bad record.
        csv_columns: names of the columns of tables without a row of names.
        json_field: the field of a .json file that holds the records.
        encodings: of files that are not UTF-8.
        ascii_only: characters beyond ASCII are taken out.
        most_of_file: conversations that are taken of a file; None: all.
        most_of_dataset: conversations that are taken of all files; None: all.
        quality_field: the field of a record that holds its score; None: no field.
    """

    max_record_bytes: int = 8 * 2**20
    csv_columns: tuple[str, ...] = ()
    json_field: str | None = None
    encodings: Encodings = ()
    ascii_only: bool = False
    most_of_file: int | None = None
    most_of_dataset: int | None = None
    quality_field: str | None = None


@dataclass
class Reading:
    """The reading of one entry.

    Attributes:
        entry: what is read.
        number: of the entry.
        policy: for bad records.
        options: how it is read.
        read_record: makes a text or a conversation of a record, and names its form.
        unread: names of a good record's fields that nothing reads.
        on_unread: is called with these.
        begin: reading begins at this record of the entry; those before it are neither
            given nor reported.
        used: something was taken from the entry, or said about it.
    """

    entry: Entry
    number: int
    policy: Policy
    options: ReadOptions = field(default_factory=ReadOptions)
    read_record: Callable[[Any], tuple[str, Content]] = RecordReader().read
    unread: Callable[[Any], list[str]] = unread_fields
    on_unread: Callable[[list[str]], None] | None = None
    begin: Place = START
    used: bool = False

    @property
    def encoding(self) -> str:
        """What the bytes of the entry are decoded by."""
        return encoding_of(self.options.encodings, self.entry.name)

    def bad(
        self,
        code: str,
        reason: str,
        line: int | None = None,
        *,
        unit: str = "line",
        hint: str | None = None,
    ) -> None:
        """Raise, or report a bad record and carry on."""
        self.used = True
        self.policy.bad(code, self.entry.name, reason, line=line, unit=unit, hint=hint)


class Reader(ABC):
    """A format of files.

    Attributes:
        name: of the format.
        suffixes: of its files; folders are searched for them.
        by_name: further suffixes of its files. A folder is not searched for them: they
            are read where they are named, and in archives.
        decodes: its files are text, which it decodes by `Reading.encoding`.
    """

    name: str
    suffixes: tuple[str, ...]
    by_name: tuple[str, ...] = ()
    decodes: bool = False

    @abstractmethod
    def read(self, reading: Reading) -> Iterator[Document]:
        """The documents from `reading.begin` on; bad records go to `reading.bad`."""

    def parts(self, options: ReadOptions) -> list[Any]:
        """Options that change what documents this format gives, where they are set."""
        return []


class Row(NamedTuple):
    """A record of a file.

    Attributes:
        number: from 0.
        record: what it says, or why it cannot be used.
        line: shown in errors.
        hint: where a file is read on, for `Place`.
    """

    number: int
    record: Any
    line: int
    hint: tuple[int, ...] = ()


class RecordsReader(Reader):
    """A format whose files hold records.

    Attributes:
        unit: what `Row.line` counts, in errors.
    """

    unit = "line"

    @abstractmethod
    def rows(self, reading: Reading) -> Iterator[Row]:
        """The records from `reading.begin` on.

        A record that cannot be used is a `Row` with a `BadRecord`.
        """

    def read(self, reading: Reading) -> Iterator[Document]:
        """A document for every good record."""
        name, number = reading.entry.name, reading.number
        for row in self.rows(reading):
            try:
                if isinstance(row.record, BadRecord):
                    raise row.record
                form, content = reading.read_record(row.record)
                quality = quality_of(row.record, reading.options.quality_field)
            except BadRecord as bad:
                reading.bad(
                    bad.code, bad.reason, row.line, unit=self.unit, hint=bad.hint
                )
                continue
            reading.used = True
            if reading.on_unread is not None:
                unread = reading.unread(row.record)
                scored = reading.options.quality_field
                reading.on_unread([name for name in unread if name != scored])
            place = Place(number, row.number, row.hint)
            text, turns = (
                (content, None) if isinstance(content, str) else (None, content)
            )
            yield Document(
                text, turns, name, row.line, place=place, form=form, quality=quality
            )


def quality_of(record: Any, name: str | None) -> float | None:
    """The score of a record, from the field that holds it; None without a name.

    Args:
        record: what a file holds.
        name: of the field, whose value is a number, or a text that spells one, as
            tables have it.

    Raises:
        BadRecord: E102 where the field is absent or no finite number.
    """
    if name is None:
        return None
    found = record.get(name) if isinstance(record, dict) else None
    try:
        value = math.nan if found is None or isinstance(found, bool) else float(found)
    except (TypeError, ValueError):
        value = math.nan
    if not math.isfinite(value):
        raise BadRecord(
            "E102",
            f"the field {name!r} (quality_field) is {found!r}, not a number",
            "give every record a number there; --data-errors skip leaves out the "
            "records without one",
        )
    return value
