"""Memory of a streamed run on large data, and the time to its first step."""

from __future__ import annotations

import resource
import time
from pathlib import Path
from typing import Any

from lumina.data.kind import Request
from lumina.data.order import Cursor
from lumina.data.streaming import streamed_data
from lumina.data.streaming.sequence import StreamedRows
from lumina.data.tokenizer import Tokenizer
from lumina.measure.bench.tokens import streamed_rows, streaming_config

MiB = 2**20


def measure_memory(
    file: Path, tokenizer: Tokenizer, *, cores: int, text_bytes: int
) -> dict[str, Any]:
    """Stream a part of a file, and again from its end on; watch the memory.

    Args:
        file: JSON lines with a text each.
        tokenizer: the tokenizer.
        cores: threads that tokenise.
        text_bytes: how much of the text is tokenised, half of it in each place.

    Returns:
        The process's memory in MiB when the first quarter is done, at half, where one
        stream has gone on, and at the end, where another one has begun; the most it
        ever had; and the seconds to the first row in the two places.
    """
    size = file.stat().st_size
    begun = time.perf_counter()
    rows = streamed_rows(file, tokenizer, cores)
    cursor = _first(rows, rows.start)
    start = time.perf_counter() - begun
    quarter = 0.0
    half = text_bytes / 2
    tokens = 0
    while cursor["place"] is None or _offset(cursor) < half:
        cursor, more = _take(rows, cursor)
        if not more:
            break
        tokens += more
        if not quarter and cursor["place"] and _offset(cursor) >= half / 2:
            quarter = resident()
    middle = resident()
    rows.close()
    del rows  # a run that resumes there is a process of its own
    there = dict(cursor) | {"place": _far(file, cursor, half)}
    begun = time.perf_counter()
    rows = streamed_rows(file, tokenizer, cores)
    cursor = _first(rows, there)
    resumed = time.perf_counter() - begun
    more = 1
    while more:
        cursor, more = _take(rows, cursor)
        tokens += more
    rows.close()
    peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * 1024 / MiB
    return {
        "file_gb": size / 1e9,
        "tokenised_mb": text_bytes / 1e6,
        "tokens": tokens,
        "memory_at_a_quarter_mib": quarter,
        "memory_at_half_mib": middle,
        "memory_at_the_end_mib": resident(),
        "peak_memory_mib": peak,
        "seconds_to_first_row": start,
        "seconds_to_first_row_at_the_end": resumed,
    }


def _first(rows: StreamedRows, cursor: Cursor) -> Cursor:
    """Take one row, and stand behind it."""
    return rows.take(cursor, 1).cursor


def _take(rows: StreamedRows, cursor: Cursor) -> tuple[Cursor, int]:
    """Take some rows: where they end, and their tokens, 0 where the data has ended."""
    taken = rows.take(cursor, 64)
    return taken.cursor, _tokens(taken.contents)


def _offset(cursor: Cursor) -> int:
    """Bytes of the file before the window; a plain file's place says them."""
    return int(cursor["place"][2][0])


def _far(file: Path, cursor: Cursor, left: float) -> list[Any]:
    """A place this many bytes before the end of the file."""
    entry, record, hint = cursor["place"]
    with open(file, "rb") as handle:
        size = handle.seek(0, 2)
        handle.seek(int(size - left))
        handle.readline()
        offset = handle.tell()
    return [entry, int(offset / max(hint[0] / max(record, 1), 1)), [offset]]


def _tokens(contents: Any) -> int:
    return sum(
        int(w.packing.lengths[w.packing.rows[n] : w.packing.rows[n + 1]].sum())
        for w, n in contents
    )


def resident() -> float:
    """Memory of this process, in MiB."""
    with open("/proc/self/statm") as file:
        pages = int(file.read().split()[1])
    return pages * resource.getpagesize() / MiB


def measure_start(archive: Path, tokenizer: Tokenizer, *, cores: int) -> dict[str, Any]:
    """Seconds from nothing to the rows of a first step on an archive of small files."""
    begun = time.perf_counter()
    config = streaming_config(archive, cores)
    # With all that a run does before its first step, such as holding documents out.
    data = streamed_data.KIND.prepare(Request(config, tokenizer))
    rows = data.rows(config).sequence
    assert isinstance(rows, StreamedRows)
    taken = rows.take(rows.start, 32)
    first = time.perf_counter() - begun
    rows.close()
    return {
        "archive_mb": archive.stat().st_size / 1e6,
        "seconds_to_first_step": first,
        "rows": len(taken.contents),
    }
