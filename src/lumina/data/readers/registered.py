"""Formats that a plug-in adds: a function that gives records."""

from __future__ import annotations

import hashlib
import inspect
from collections.abc import Callable, Iterable, Iterator
from typing import Any, BinaryIO

from lumina.data.readers import table
from lumina.data.readers.reader import Reading, ReadOptions, RecordsReader, Row
from lumina.errors import LuminaError

Records = Callable[[BinaryIO], Iterable[Any]]
"""From the bytes of a file to its records, in order."""


class Registered(RecordsReader):
    """Files that a function reads.

    Args:
        name: of the format.
        suffixes: of its files, which a folder is searched for.
        by_name: suffixes of files that are read where they are named.
        records: gives the records.
    """

    unit = "record"

    def __init__(
        self,
        name: str,
        suffixes: tuple[str, ...],
        by_name: tuple[str, ...],
        records: Records,
    ) -> None:
        self.name = name
        self.suffixes = suffixes
        self.by_name = by_name
        self.records = records

    def parts(self, options: ReadOptions) -> list[Any]:
        """The function's source: with another one, files give other documents."""
        source = inspect.getsource(self.records)
        return [[self.name, hashlib.sha256(source.encode()).hexdigest()]]

    def rows(self, reading: Reading) -> Iterator[Row]:
        """The records; each is numbered by its place in the file."""
        first = reading.begin.record
        with reading.entry.open() as handle:
            for number, record in enumerate(self.records(handle)):
                if number >= first:
                    yield Row(number, record, number + 1)


def register_reader(
    name: str, *, suffixes: Iterable[str] = (), by_name: Iterable[str] = ()
) -> Callable[[Records], Records]:
    """Register a function that reads files of one format, by their suffix.

    The function is called with a binary stream, which may not be seekable, and yields
    records: what a line of a .jsonl file says. A record that cannot be used is a
    `lumina.data.records.BadRecord`, yielded and not raised.

    Args:
        name: of the format.
        suffixes: of its files, such as ".log"; folders are searched for them.
        by_name: suffixes of files that are read only where they are named.

    Raises:
        LuminaError: E005 for a name or a suffix that another format has.
    """
    searched, named = tuple(suffixes), tuple(by_name)
    for suffix in (*searched, *named):
        if not suffix.startswith(".") or suffix != suffix.lower():
            raise LuminaError(
                "E005",
                f"the suffix {suffix!r} of the format {name!r}",
                "a suffix begins with a point and has small letters",
            )
    if not searched and not named:
        raise LuminaError(
            "E005", f"the format {name!r} has no suffix", "give it suffixes or by_name"
        )

    def decorate(records: Records) -> Records:
        table.add(Registered(name, searched, named, records), records.__module__)
        return records

    return decorate
