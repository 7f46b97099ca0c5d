"""A record a line."""

from __future__ import annotations

import json
from collections.abc import Iterator

from lumina.data.readers.lines import lines
from lumina.data.readers.reader import Reading, RecordsReader, Row
from lumina.data.records import BadRecord, each_field_once

_DECODER = json.JSONDecoder(object_pairs_hook=each_field_once)


class JsonLines(RecordsReader):
    """Files with a JSON object on every line; blank lines are nothing."""

    name = "jsonl"
    suffixes = (".jsonl", ".ndjson")
    decodes = True

    def rows(self, reading: Reading) -> Iterator[Row]:
        """The records; each is numbered by its line."""
        begin, entry = reading.begin, reading.entry
        start = begin.hint[0] if begin.hint else 0
        first = begin.record if begin.hint else 0
        seekable = entry.seekable
        with entry.open() as handle:
            for line, number, at, bad in lines(reading, handle, start, first + 1):
                if number <= begin.record:
                    continue
                hint = (at,) if seekable else ()
                if bad is not None:
                    yield Row(number - 1, bad, number, hint)
                    continue
                # A mark before a record is left from files that were joined.
                text = line.removeprefix("\ufeff")
                if not text.isspace() and text:
                    yield Row(number - 1, _record(text), number, hint)


def _record(line: str) -> object:
    try:
        return _DECODER.decode(line)
    except json.JSONDecodeError as error:
        reason = f"not JSON: {error.msg} at column {error.colno}"
        if line.strip() in ("{", "["):
            reason += " (a .jsonl file has one whole object on every line)"
        return BadRecord("E101", reason)
    except (ValueError, RecursionError) as error:
        return BadRecord("E101", f"not usable JSON: {error}")
    except BadRecord as bad:
        return bad


READER = JsonLines()
