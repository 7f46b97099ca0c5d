"""Files, archives and data sets -> `Document`s, with a policy for what is bad.

Where bytes come from is told by `lumina.data.sources`, what they hold by
`lumina.data.readers`. Everything is read as a stream: no line or record beyond a limit
is ever held in memory, and nothing of an archive is written anywhere.
"""

from __future__ import annotations

import os
from collections.abc import Callable, Iterable, Iterator
from dataclasses import replace
from typing import Any, Literal

from lumina.data.ascii_only import ascii_documents
from lumina.data.conversation_limits import ConversationLimits, OnBeyond
from lumina.data.readers.reader import Document, Reading, ReadOptions
from lumina.data.readers.table import reader_of
from lumina.data.readers.text import SEPARATOR
from lumina.data.record_forms.dataset_info import reader_of_source
from lumina.data.records import Content, Message, RecordReader
from lumina.data.skipping import Policy, Skipped
from lumina.data.sources.entry import Access, Damaged, Limits, Place, Source
from lumina.data.sources.find import find_entries, gone

__all__ = [
    "MAX_RECORD_BYTES",
    "SEPARATOR",
    "Document",
    "Place",
    "ReadOptions",
    "Skipped",
    "read_documents",
]

MAX_RECORD_BYTES = ReadOptions().max_record_bytes
"""The default limit of a line or record."""


def read_documents(
    paths: Iterable[str | os.PathLike[str]] | Iterable[Source],
    *,
    errors: Literal["skip", "fatal"] = "fatal",
    max_record_bytes: int | None = None,
    on_skip: Callable[[Skipped], None] | None = None,
    on_unread: Callable[[list[str]], None] | None = None,
    on_left_out: Callable[[str, str], None] | None = None,
    on_removed: Callable[[int, bool], None] | None = None,
    on_beyond: OnBeyond | None = None,
    read_record: Callable[[Any], str | tuple[Message, ...]] | None = None,
    records: RecordReader | None = None,
    begin: Place | None = None,
    options: ReadOptions | None = None,
    limits: Limits | None = None,
    access: Access | None = None,
) -> Iterator[Document]:
    """Yield the documents of files, folders, patterns and archives, in a fixed order.

    Args:
        paths: what to read; see `find_sources`.
        errors: "fatal" raises at the first bad record, "skip" leaves it out.
        max_record_bytes: a longer line or record is a bad record (E101); as in
            `options`, where it is not given.
        on_skip: is called with every record left out.
        on_unread: is called, for every record, with its fields that nothing reads.
        on_left_out: is called with (kind, name) of every member of an archive that is
            no data.
        on_removed: is called for every text that `options.ascii_only` changes; see
            `ascii_documents`.
        on_beyond: is called for every conversation that a bound of `options` leaves
            out.
        read_record: makes a text or a conversation of a record, in place of `records`.
        records: reads the records; None: by the form that each has.
        begin: the `Document.place` of the document to begin with, in the same data;
            what comes before it is neither given nor reported.
        options: how files are read.
        limits: bounds on what archives give.
        access: how far reading has come, for progress; it is filled in.

    Raises:
        LuminaError: E104 and other errors about a named path, always; with "fatal"
            also E101 format, E102 fields, E103 encoding, E105 empty, E106 permission.
    """
    options = options or ReadOptions()
    if max_record_bytes is not None:
        options = replace(options, max_record_bytes=max_record_bytes)
    policy = Policy(errors == "fatal", on_skip, on_left_out)
    begin = begin or Place(0, 0)
    access = access or Access()
    records = records or RecordReader()
    access.limits = limits or Limits()
    most = ConversationLimits(options.most_of_file, options.most_of_dataset, on_beyond)
    access.policy = policy if not begin.entry else Policy(fatal=False)
    for number, entry in enumerate(find_entries(paths, access)):
        if number < begin.entry:
            continue
        reader = reader_of_source(records, entry.name)
        read = reader.read if read_record is None else _unnamed(read_record)
        reading = Reading(
            entry, number, policy, options, read, reader.unread, on_unread
        )
        if number == begin.entry:
            reading.begin, access.policy = begin, policy
        try:
            found = reader_of(entry.format).read(reading)
            if options.ascii_only:
                found = ascii_documents(found, on_removed)
            yield from most.of_file(found)
        except PermissionError:
            reading.bad("E106", "this user may not read it")
        except FileNotFoundError:
            raise gone(entry.name) from None
        except Damaged as damage:
            reading.bad("E101", str(damage), hint=damage.hint)
        if not reading.used and not reading.begin.record:
            reading.bad("E105", "nothing in it")


def _unnamed(
    read_record: Callable[[Any], str | tuple[Message, ...]],
) -> Callable[[Any], tuple[str, Content]]:
    """A reader of records that does not name their form."""
    return lambda record: ("", read_record(record))
