"""The formats there are, and the one that a file's suffix stands for."""

from __future__ import annotations

from collections.abc import Iterable

from lumina.data.readers import arrow, json_array, jsonl, parquet, rows, tables, text
from lumina.data.readers.reader import Reader
from lumina.errors import LuminaError

READERS: tuple[Reader, ...] = (
    text.READER,
    jsonl.READER,
    json_array.READER,
    tables.CSV,
    tables.TSV,
    parquet.READER,
    arrow.READER,
    rows.READER,
)
"""Lumina's own formats."""

_REGISTERED: dict[str, Reader] = {}


def known_readers() -> dict[str, Reader]:
    """All formats by name: Lumina's own and the registered ones."""
    return {reader.name: reader for reader in READERS} | _REGISTERED


def suffixes(searched: bool = True, by_name: bool = True) -> dict[str, str]:
    """Suffix -> format.

    Args:
        searched: with the suffixes that a folder is searched for.
        by_name: with those of files that are read only where they are named.
    """
    found: dict[str, str] = {}
    for reader in known_readers().values():
        chosen: Iterable[str] = (
            *(reader.suffixes if searched else ()),
            *(reader.by_name if by_name else ()),
        )
        found.update(dict.fromkeys(chosen, reader.name))
    return found


def reader_of(name: str) -> Reader:
    """The reader of a format.

    Raises:
        LuminaError: E101 there is none.
    """
    reader = known_readers().get(name)
    if reader is None:
        raise LuminaError(
            "E101",
            f"no reader for the format {name!r}",
            f"there are {', '.join(known_readers())}",
        )
    return reader
