"""Tar archives, also compressed ones, read from their start to their end."""

from __future__ import annotations

import tarfile
from collections.abc import Iterator
from typing import BinaryIO

from lumina.data.known_hashes import known_hash
from lumina.data.sources import members
from lumina.data.sources.archive import REFUSED, Member, Members
from lumina.data.sources.compression import COMPRESSIONS
from lumina.data.sources.entry import Access, Damaged, Entry, Source, SourceKind
from lumina.data.sources.guard import BLOCK, Guarded, Unpacked, buffered
from lumina.data.sources.tar_header import Header, next_header

_LINKS = (tarfile.SYMTYPE, tarfile.LNKTYPE)
_SILENT = (tarfile.DIRTYPE,)


class Tar(SourceKind):
    """Members come as they stand in the archive, and none is ever written anywhere."""

    def describes(self, name: str) -> bool:
        """Whether a file is a tar archive, by its name."""
        return members.tar_compression(name) is not None

    def identity(self, source: Source) -> list[str]:
        """An archive is known by its bytes."""
        assert source.path is not None
        return ["tar", known_hash(source.path)]

    def entries(self, source: Source, access: Access) -> Iterator[Entry]:
        """The members that hold data. Each is to be read before the next is taken."""
        assert source.path is not None
        with open(source.path, "rb") as handle:
            access.position = handle.tell
            yield from _Archive(source, access, handle).entries()


class _Archive:
    """One pass over an archive."""

    def __init__(self, source: Source, access: Access, handle: BinaryIO) -> None:
        self.name = source.name
        self.access = access
        compression = members.tar_compression(source.name)
        unpacked = Unpacked("the archive", access.limits, handle.tell)
        self.members = Members(source.name, access, unpacked)
        if compression:
            inner = COMPRESSIONS[compression](handle)
            self.stream = buffered(Guarded(inner, (unpacked,)))
        else:
            self.stream = handle
        self.seekable = not compression
        self.last = ""  # the last member that is whole
        self.broken = False

    def entries(self) -> Iterator[Entry]:
        """The members that are read."""
        while True:
            try:
                header = next_header(self.stream.read)
                if header is None:
                    return
                body = _Body(self, header)
            except Damaged as damage:
                self._report(damage)
                return
            entry = self._entry(header, body)
            if entry is not None:
                yield entry
            if self.broken:
                return  # the reader of the member has said so
            try:
                body.skip()
            except Damaged as damage:
                self._report(damage)
                return
            self.last = header.name

    def _report(self, damage: Damaged) -> None:
        self.access.policy.bad(
            "E101",
            self.name,
            f"the archive is {damage}{self.until()}",
            hint=damage.hint,
        )

    def until(self) -> str:
        """What is read of the archive where it breaks off."""
        if not self.last:
            return "; no member before that is whole"
        return f"; the last whole member is {members.shown(self.last)!r}"

    def _entry(self, header: Header, body: _Body) -> Entry | None:
        name = self.members.name(header.name)
        policy = self.access.policy
        if header.type in _SILENT:
            return None
        if header.sparse:
            policy.leave_out(members.SPARSE, name)
        elif header.type in _LINKS:
            policy.leave_out(members.LINKS, name)
        elif header.type in tarfile.REGULAR_TYPES:
            return self.members.entry(Member(header.name, header.size, body.open))
        elif header.type in (tarfile.CHRTYPE, tarfile.BLKTYPE, tarfile.FIFOTYPE):
            policy.leave_out(members.DEVICES, name)
        else:
            policy.bad(
                "E101",
                name,
                f"a member of the unknown type {header.type!r}",
                hint=REFUSED,
            )
        return None


class _Body:
    """The bytes of a member: what is not read of them is passed over."""

    def __init__(self, archive: _Archive, header: Header) -> None:
        self.archive = archive
        self.left = header.size
        self.padding = header.padded - header.size

    def open(self) -> BinaryIO:
        """The bytes, once."""
        return buffered(Guarded(self, (), self.archive.until, self.left))  # type: ignore[arg-type]

    def read(self, size: int) -> bytes:
        """Up to `size` bytes; none where the archive breaks off."""
        try:
            data = self.archive.stream.read(min(size, self.left))
        except Damaged as damage:
            self.archive.broken = True
            raise Damaged(f"{damage}{self.archive.until()}", damage.hint) from None
        self.left -= len(data)
        if not data and self.left:
            self.archive.broken = True
        return data

    def close(self) -> None:
        """Nothing: the archive goes on."""

    def skip(self) -> None:
        """Pass over what is left."""
        left = self.left + self.padding
        if self.archive.seekable and left > BLOCK:
            self.archive.stream.seek(left - 1, 1)
            left = 1
        while left:
            data = self.archive.stream.read(min(left, BLOCK))
            if not data:
                raise Damaged(f"cut short: {left:,} bytes are missing")
            left -= len(data)


KIND = Tar()
