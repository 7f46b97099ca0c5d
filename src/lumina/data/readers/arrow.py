"""Arrow files, also those called Feather: a record a row."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any, BinaryIO

from lumina.data.libraries import needed
from lumina.data.readers.columnar import BATCH_ROWS, Columnar

_FILE = b"ARROW1"


class Arrow(Columnar):
    """Arrow's files and streams; a batch of the file is in memory at a time."""

    name = "arrow"
    suffixes = (".arrow", ".feather")

    def batches(self, file: BinaryIO, first: int) -> Iterator[tuple[int, Any]]:
        """Batches of rows."""
        start = 0
        for batch in _stored(file):
            batch.validate(full=True)  # before its offsets are followed
            if start + batch.num_rows > first:
                for at in range(0, batch.num_rows, BATCH_ROWS):
                    yield start + at, batch.slice(at, BATCH_ROWS)
            start += batch.num_rows


def _stored(file: BinaryIO) -> Iterator[Any]:
    ipc = needed("pyarrow.ipc")
    mark = file.read(len(_FILE))
    file.seek(0)
    if mark != _FILE:
        yield from ipc.open_stream(file)
        return
    opened = ipc.open_file(file)
    for number in range(opened.num_record_batches):
        yield opened.get_batch(number)


READER = Arrow()
