"""JSON files: an array of objects, an object that holds one, or objects in a row.

The file is read in pieces. Only the object at hand is in memory, so an array may have
any size, as long as each of its objects is within the limit of a record.
"""

from __future__ import annotations

from collections.abc import Generator, Iterator
from typing import Any

from lumina.data.readers.json_values import JsonValues
from lumina.data.readers.reader import Reading, ReadOptions, RecordsReader, Row
from lumina.data.records import BadRecord


class JsonArrays(RecordsReader):
    """Files of JSON values.

    An object by itself is a record where it can be read as one. Otherwise it holds the
    records: in its one field with an array of objects, or in the field that
    `--json-field` names.
    """

    name = "json"
    suffixes = (".json",)
    unit = "record"
    decodes = True

    def parts(self, options: ReadOptions) -> list[Any]:
        """The field that holds the records."""
        return [["json_field", options.json_field]] if options.json_field else []

    def rows(self, reading: Reading) -> Iterator[Row]:
        """The records; each is numbered by its place in the file."""
        first = reading.begin.record
        with reading.entry.open() as handle:
            values = JsonValues(
                handle, reading.options.max_record_bytes, reading.encoding
            )
            for number, record in enumerate(self._records(reading, values)):
                if number >= first:
                    yield Row(number, record, number + 1)

    def _records(self, reading: Reading, values: JsonValues) -> Iterator[Any]:
        """The records, and in the place of each that is bad, the reason."""
        try:
            first = values.peek()
            if first == "[":
                yield from values.array()
                values.end()
            elif first == "{":
                yield from self._objects(reading, values)
            elif first:
                yield BadRecord(
                    "E101", "this file has no array of objects and no object in it"
                )
        except BadRecord as bad:
            yield bad

    def _objects(self, reading: Reading, values: JsonValues) -> Iterator[Any]:
        """One object that holds the records, or one record after another."""
        field = reading.options.json_field
        first = None if field else values.whole()
        if first is None and (field or values.too_long):
            arrays = yield from _held(values, field)
            if arrays:
                values.end()
                return
            yield values.over_limit()  # it is a record, and too long for one
            while values.peek():
                yield values.value()
        elif not values.peek():
            yield from _unfold(reading, first)
        else:
            yield first
            while values.peek():
                yield values.value()


def _unfold(reading: Reading, value: Any) -> Iterator[Any]:
    """The records of the only object of a file."""
    if isinstance(value, BadRecord):
        yield value
        return
    try:
        reading.read_record(value)
    except BadRecord as bad:
        arrays = [name for name, item in value.items() if _is_objects(item)]
        if not arrays:
            yield bad
        elif len(arrays) > 1:
            yield _several(arrays)
        else:
            yield from value[arrays[0]]
    else:
        yield value


def _is_objects(value: Any) -> bool:
    return isinstance(value, list) and bool(value) and isinstance(value[0], dict)


def _several(names: list[str]) -> BadRecord:
    return BadRecord(
        "E101",
        f"this file is an object with several arrays of objects ({', '.join(names)})",
        "name the one to read with --json-field",
    )


def _held(values: JsonValues, wanted: str | None) -> Generator[Any, None, list[str]]:
    """The items of the one array that an object holds; then the array's field.

    Args:
        values: stand before the object.
        wanted: the field; None: there has to be one field with an array only.
    """
    values.expect("{")
    arrays: list[str] = []
    while values.peek() != "}":
        name = str(values.value())
        values.expect(":")
        if values.peek() == "[" and wanted in (None, name):
            arrays.append(name)
            if len(arrays) > 1:
                raise _several(arrays)
            yield from values.array()
        else:
            values.value()
        if values.peek() != "}":
            values.expect(",")
    values.expect("}")
    if wanted and not arrays:
        raise BadRecord(
            "E101", f"this file is an object with no field {wanted!r} with an array"
        )
    return arrays


READER = JsonArrays()
