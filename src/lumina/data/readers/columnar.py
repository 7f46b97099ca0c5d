"""Tables in columns: Parquet and Arrow files, read in batches by pyarrow."""

from __future__ import annotations

import io
from abc import abstractmethod
from collections.abc import Iterator
from typing import Any, BinaryIO

from lumina.data.libraries import needed
from lumina.data.readers.reader import Reading, RecordsReader, Row
from lumina.data.records import BadRecord
from lumina.data.sources.entry import Damaged

BATCH_ROWS = 256

HELD_BYTES = 256 * 2**20
"""The largest such file that is read from an archive: it is not a stream, so all of it
is held in memory."""


class Columnar(RecordsReader):
    """Files that pyarrow reads."""

    unit = "row"

    def rows(self, reading: Reading) -> Iterator[Row]:
        """The records; each is numbered by its row."""
        arrow = needed("pyarrow")
        first = reading.begin.record
        with reading.entry.open() as handle:
            file = handle if reading.entry.seekable else _held(handle)
            try:
                for start, batch in self.batches(file, first):
                    yield from _rows(batch, start, first, reading)
            except (arrow.ArrowException, OSError, ValueError) as error:
                said = str(error).split("\n")[0][:300]
                raise Damaged(f"damaged or cut short ({said})") from None

    @abstractmethod
    def batches(self, file: BinaryIO, first: int) -> Iterator[tuple[int, Any]]:
        """(number of the first row, record batch) from about row `first` on."""


def _rows(batch: Any, start: int, first: int, reading: Reading) -> Iterator[Row]:
    limit = reading.options.max_record_bytes
    large = batch.nbytes > limit
    # A column may have a name twice, of which a record keeps one.
    names = batch.schema.names
    twice = sorted({name for name in names if names.count(name) > 1})
    for number in range(max(start, first), start + batch.num_rows):
        if twice:
            record: Any = BadRecord("E102", f"two columns have the name {twice[0]!r}")
        else:
            [record] = batch.slice(number - start, 1).to_pylist()
            if large and (size := _size(record)) > limit:
                record = BadRecord(
                    "E101",
                    f"the row has {size:,} bytes, over the limit of {limit:,} "
                    "(max_record_bytes)",
                )
        yield Row(number, record, number + 1)


def _size(value: Any) -> int:
    """About how many bytes a value has."""
    if isinstance(value, str | bytes):
        return len(value)
    if isinstance(value, dict):
        return sum(map(_size, value.values()))
    if isinstance(value, list | tuple):
        return sum(map(_size, value))
    return 8


def _held(handle: BinaryIO) -> BinaryIO:
    """A file of an archive in memory."""
    data = handle.read(HELD_BYTES + 1)
    if len(data) > HELD_BYTES:
        raise Damaged(
            f"a Parquet or Arrow file in an archive is held in memory, and this one "
            f"has more than {HELD_BYTES:,} bytes",
            "unpack it, and name the file",
        )
    return io.BytesIO(data)
