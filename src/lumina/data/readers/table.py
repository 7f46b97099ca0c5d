"""The formats there are, and the one that a file's suffix stands for."""

from __future__ import annotations

import functools
from collections.abc import Iterable, Mapping
from types import MappingProxyType

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

_REGISTERED: dict[str, tuple[str, Reader]] = {}
"""Name of a format -> the module that registers it, and its reader."""


def add(reader: Reader, module: str) -> None:
    """Add the format of a plug-in.

    Raises:
        LuminaError: E005 for a name or a suffix that another format has.
    """
    others = [one for one in known_readers().values() if one.name != reader.name]
    before = _REGISTERED.get(reader.name)
    own = any(one.name == reader.name for one in READERS)
    if own or (before is not None and before[0] != module):
        raise LuminaError(
            "E005",
            f"there is a format {reader.name!r} already",
            "register yours under another name",
        )
    for other in others:
        for suffix in {*reader.suffixes, *reader.by_name} & {
            *other.suffixes,
            *other.by_name,
        }:
            raise LuminaError(
                "E005",
                f"{suffix} files are those of the format {other.name!r}",
                "give your files another suffix",
            )
    _REGISTERED[reader.name] = (module, reader)
    suffixes.cache_clear()


def known_readers() -> dict[str, Reader]:
    """All formats by name: Lumina's own and the registered ones."""
    added = {name: reader for name, (_, reader) in _REGISTERED.items()}
    return {reader.name: reader for reader in READERS} | added


@functools.cache
def suffixes(searched: bool = True, by_name: bool = True) -> Mapping[str, str]:
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
    return MappingProxyType(found)


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
