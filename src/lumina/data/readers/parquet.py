"""Parquet files: a record a row."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any, BinaryIO

from lumina.data.libraries import needed
from lumina.data.readers.columnar import BATCH_ROWS, Columnar

_BUFFER = 2**20


class Parquet(Columnar):
    """Parquet files, of which a part of a group of rows is in memory at a time."""

    name = "parquet"
    suffixes = (".parquet", ".pq")

    def batches(self, file: BinaryIO, first: int) -> Iterator[tuple[int, Any]]:
        """Batches of rows; groups of rows before `first` are not read."""
        parquet = needed("pyarrow.parquet")
        opened = parquet.ParquetFile(
            file, buffer_size=_BUFFER, pre_buffer=False, memory_map=False
        )
        start, groups = 0, list(range(opened.metadata.num_row_groups))
        while groups:
            rows = opened.metadata.row_group(groups[0]).num_rows
            if start + rows > first:
                break
            start += rows
            del groups[0]
        if not groups:
            return
        for batch in opened.iter_batches(
            batch_size=BATCH_ROWS, row_groups=groups, use_threads=False
        ):
            if start + batch.num_rows > first:
                yield start, batch
            start += batch.num_rows


READER = Parquet()
