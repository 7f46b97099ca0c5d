"""Tables of text: a record a row, with the names of its fields in the first row."""

from __future__ import annotations

import csv
import threading
from collections.abc import Iterator
from typing import Any

from lumina.data.readers.lines import Line, lines
from lumina.data.readers.reader import Reading, ReadOptions, RecordsReader, Row
from lumina.data.records import BadRecord

_SETTING = threading.Lock()


class Tables(RecordsReader):
    """Files of rows whose fields are divided by one character.

    A field in quotation marks may have line ends in it. Without `--csv-columns`, the
    first row names the columns.

    Args:
        name: of the format.
        suffix: of its files.
        delimiter: divides the fields.
    """

    decodes = True

    def __init__(self, name: str, suffix: str, delimiter: str) -> None:
        self.name = name
        self.suffixes = (suffix,)
        self.delimiter = delimiter

    def parts(self, options: ReadOptions) -> list[Any]:
        """The names of the columns, where they are given."""
        if self.name != "csv" or not options.csv_columns:
            return []
        return [["csv_columns", *options.csv_columns]]

    def rows(self, reading: Reading) -> Iterator[Row]:
        """The records; each is numbered by its row."""
        begin, entry = reading.begin, reading.entry
        with entry.open() as handle:
            if not begin.hint:
                yield from self._rows(reading, lines(reading, handle), None, 0)
                return
            start, first = begin.hint
            names = self._names(reading, lines(reading, handle))
            if names is not None:
                rest = lines(reading, handle, start, first)
                yield from self._rows(reading, rest, names, begin.record)

    def _names(self, reading: Reading, source: Iterator[Line]) -> list[str] | None:
        """The names of the columns, from the options or the first row."""
        given = reading.options.csv_columns
        if given:
            return list(given)
        return next(
            (fields for fields, _, _ in self._parsed(reading, source) if fields), None
        )

    def _rows(
        self,
        reading: Reading,
        source: Iterator[Line],
        names: list[str] | None,
        number: int,
    ) -> Iterator[Row]:
        names = names or list(reading.options.csv_columns) or None
        for fields, line, bad in self._parsed(reading, source):
            _, row_line, start, _ = line
            hint = (start, row_line) if reading.entry.seekable else ()
            if bad is None and not fields:
                continue  # a blank line
            if names is None:
                if bad is None and (bad := _bad_names(fields)) is None:
                    names = fields
                    continue
                yield Row(number, bad, row_line)
                return
            record = bad or _record(names, fields)
            if number >= reading.begin.record:
                yield Row(number, record, row_line, hint)
            number += 1

    def _parsed(
        self, reading: Reading, source: Iterator[Line]
    ) -> Iterator[tuple[list[str], Line, BadRecord | None]]:
        """(fields, first line, why it is bad) of every row."""
        limit = reading.options.max_record_bytes
        with _SETTING:  # the limit of the csv module holds for all of its readers
            csv.field_size_limit(max(csv.field_size_limit(), min(limit, 2**31 - 1)))
        seen = _Seen(source, limit)
        rows = csv.reader(seen, delimiter=self.delimiter, strict=True)
        while True:
            seen.begin()
            try:
                fields = next(rows)
            except StopIteration:
                return
            except csv.Error as error:
                if seen.first is None:
                    return
                bad = BadRecord("E101", f"not a row of a table: {error}")
                yield [], seen.first, seen.bad or bad
                # What is left of the reader's state belongs to the bad row.
                rows = csv.reader(seen, delimiter=self.delimiter, strict=True)
                continue
            if seen.first is not None:
                yield fields, seen.first, seen.bad


class _Seen:
    """Lines as the csv module takes them, with what belongs to the present row."""

    def __init__(self, source: Iterator[Line], limit: int) -> None:
        self.source = source
        self.limit = limit
        self.begin()

    def begin(self) -> None:
        """A new row."""
        self.first: Line | None = None
        self.bad: BadRecord | None = None
        self.size = 0

    def __iter__(self) -> Iterator[str]:
        """Itself."""
        return self

    def __next__(self) -> str:
        """The next line.

        Raises:
            csv.Error: the row is over the limit.
        """
        line = next(self.source)
        text, _, _, bad = line
        self.first = self.first or line
        self.bad = self.bad or bad
        self.size += len(text)
        if self.size > self.limit:
            raise csv.Error(
                f"over the limit of {self.limit:,} (max_record_bytes); a quotation "
                "mark may not be closed"
            )
        return text


def _bad_names(names: list[str]) -> BadRecord | None:
    """What is wrong with the first row, if it is to name the columns."""
    twice = sorted({name for name in names if names.count(name) > 1})
    if twice:
        return BadRecord(
            "E102",
            f"two columns have the name {twice[0]!r}",
            "if the table has no row of names, name its columns with --csv-columns",
        )
    return None


def _record(names: list[str], fields: list[str]) -> dict[str, str] | BadRecord:
    if len(fields) != len(names):
        return BadRecord(
            "E102",
            f"the row has {len(fields)} fields, and there are {len(names)} columns",
        )
    return dict(zip(names, fields, strict=True))


CSV = Tables("csv", ".csv", ",")
TSV = Tables("tsv", ".tsv", "\t")
