"""What a source of data gives: entries, which are opened and read one after another."""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, BinaryIO, NamedTuple

from lumina.data.skipping import Policy


class Damaged(Exception):
    """The bytes of a file or of an archive's member that cannot be given.

    Attributes:
        hint: what to do; None: the usual advice.
    """

    def __init__(self, reason: str, hint: str | None = None) -> None:
        self.hint = hint
        super().__init__(reason)


class Place(NamedTuple):
    """The place of a document in what is read; as JSON, a list.

    Attributes:
        entry: number of the entry, from 0, in the order of `find_entries`.
        record: number of the record in the entry, from 0. Records that are left out
            have a number, too. Of a text it is the number of the piece.
        hint: where a plain file is read on; empty: the entry is read from its start.
            Only the reader of the entry's format knows what it means.
    """

    entry: int
    record: int
    hint: tuple[int, ...] = ()

    @classmethod
    def of(cls, value: Any) -> Place:
        """A place from its JSON."""
        entry, record, *hint = value
        return cls(int(entry), int(record), tuple(map(int, hint[0])) if hint else ())


START = Place(0, 0)


@dataclass(frozen=True)
class Entry:
    """A stream of bytes in one format: a file, or a member of an archive.

    Attributes:
        name: is shown in errors and events ("books.tar.xz/poe/raven.md").
        size: bytes that `open` gives; None where that is not known before.
        format: the reader's name.
        open: opens it, from its start. The entries of an archive are opened before the
            next one is asked for. Reading may raise `Damaged`.
        seekable: what `open` gives can be read on from any place.
        rows: for what is no bytes: the rows from the given number on.
    """

    name: str
    size: int | None
    format: str
    open: Callable[[], BinaryIO]
    seekable: bool = False
    rows: Callable[[int], Iterator[Any]] | None = None


@dataclass(frozen=True)
class Limits:
    """Bounds against archives that are made to fill a machine.

    Attributes:
        member_bytes: the most bytes of one member of an archive.
        unpacked_bytes: the most bytes that one compressed file or archive gives.
        ratio: the most bytes given for each byte read, where more than `RATIO_FROM`
            are given.
    """

    member_bytes: int = 64 * 2**30
    unpacked_bytes: int = 2**40
    ratio: float = 250.0


RATIO_FROM = 16 * 2**20
"""Smaller amounts are given whatever their ratio: they harm nothing."""


@dataclass
class Access:
    """How sources are opened.

    Attributes:
        policy: for what cannot be read.
        limits: bounds on what archives give.
        position: how many bytes of the present file are read.
        finished: bytes of the files that are read.
    """

    policy: Policy = field(default_factory=Policy)
    limits: Limits = field(default_factory=Limits)
    position: Callable[[], int] | None = None
    finished: int = 0

    def done(self) -> int:
        """Bytes of files that are read, for progress."""
        try:
            return self.finished + (self.position() if self.position else 0)
        except ValueError:  # the file is closed
            return self.finished


@dataclass(frozen=True)
class Source:
    """A file, or a data set of a hub, that was named or found in a folder.

    Attributes:
        name: as in errors and events.
        kind: gives its entries.
        path: the file; None where there is none.
    """

    name: str
    kind: SourceKind
    path: Path | None = None

    @property
    def size(self) -> int:
        """Its bytes; 0 where they are not known."""
        return self.kind.size(self)

    @property
    def unpacks(self) -> bool:
        """Whether more bytes may come out of it than it has on the disk."""
        return self.kind.unpacks(self.name)

    def may_hold(self, suffixes: tuple[str, ...]) -> bool:
        """Whether there may be a file with one of these suffixes in it."""
        return self.kind.may_hold(self.name, suffixes)


class SourceKind(ABC):
    """One kind of source."""

    @abstractmethod
    def describes(self, name: str) -> bool:
        """Whether a file, or what is named, is a source of this kind, by its name."""

    @abstractmethod
    def entries(self, source: Source, access: Access) -> Iterator[Entry]:
        """The entries, in a fixed order."""

    def size(self, source: Source) -> int:
        """Its bytes, on the disk; 0 where there is no file, or not any more."""
        try:
            return source.path.stat().st_size if source.path else 0
        except OSError:
            return 0

    def unpacks(self, name: str) -> bool:
        """Whether more bytes may come out of such a source than it has on the disk."""
        return True

    def may_hold(self, name: str, suffixes: tuple[str, ...]) -> bool:
        """Whether there may be a file with one of these suffixes in it."""
        return True

    @abstractmethod
    def identity(self, source: Source) -> list[str]:
        """What tells the source's content: how it is read, and a hash."""
