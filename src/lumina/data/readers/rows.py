"""What is rows already: data sets that a library reads."""

from __future__ import annotations

from collections.abc import Iterator

from lumina.data.readers.reader import Reading, RecordsReader, Row


class Rows(RecordsReader):
    """Entries without bytes."""

    name = "rows"
    suffixes = ()
    unit = "row"

    def rows(self, reading: Reading) -> Iterator[Row]:
        """The records; each is numbered by its row."""
        assert reading.entry.rows is not None
        first = reading.begin.record
        for number, record in enumerate(reading.entry.rows(first), first):
            yield Row(number, record, number + 1)


READER = Rows()
