"""What tar and zip archives have in common: which members are read, and how."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import BinaryIO

from lumina.data.sources import members
from lumina.data.sources.compression import COMPRESSIONS
from lumina.data.sources.entry import Access, Damaged, Entry
from lumina.data.sources.guard import Guarded, Unpacked, buffered
from lumina.data.sources.members import Form

REFUSED = "pack the archive again without it, or leave it out with --data-errors skip"

_SNIFFED = 4096


@dataclass(frozen=True)
class Member:
    """A file in an archive.

    Attributes:
        name: in the archive.
        size: its bytes, as the archive says.
        open: its bytes; they may raise `Damaged`.
    """

    name: str
    size: int
    open: Callable[[], BinaryIO]


class Members:
    """Decides about the members of one archive.

    Args:
        archive: its name.
        access: limits, and the policy for what cannot be read.
        unpacked: counts what the archive gives.
    """

    def __init__(self, archive: str, access: Access, unpacked: Unpacked) -> None:
        self.archive = archive
        self.access = access
        self.unpacked = unpacked

    def name(self, member: str) -> str:
        """The name of a member in errors and events."""
        return members.shown(f"{self.archive}/{member}")

    def entry(self, member: Member) -> Entry | None:
        """The entry for a member; None where it is not read, which is reported."""
        policy, name = self.access.policy, self.name(member.name)
        if members.leads_out(member.name):
            policy.bad(
                "E101",
                name,
                "this name leads out of the archive, as names do that are made to "
                "overwrite files",
                hint=REFUSED,
            )
            return None
        form = members.member_form(member.name)
        if isinstance(form, str):
            policy.leave_out(form, name)
            return None
        limit = self.access.limits.member_bytes
        if member.size > limit:
            policy.bad(
                "E101",
                name,
                f"this member has {member.size:,} bytes, over the limit of {limit:,}",
                hint="raise --max-member-bytes if this is right",
            )
            return None
        return self._entry(member, form, name)

    def _entry(self, member: Member, form: Form, name: str) -> Entry | None:
        if form.format is None:
            return self._sniffed(member, name)
        if not form.compression:
            return Entry(name, member.size, form.format, member.open)
        return Entry(
            name, None, form.format, lambda: self._decompressed(member, form, name)
        )

    def _decompressed(self, member: Member, form: Form, name: str) -> BinaryIO:
        """A compressed member; what it gives counts for the archive, too."""
        raw = member.open()
        read = _Told(raw)
        counts = Unpacked(name, self.access.limits, lambda: read.bytes)
        inner = COMPRESSIONS[form.compression](read)  # type: ignore[arg-type]
        return buffered(Guarded(inner, (counts,)))

    def _sniffed(self, member: Member, name: str) -> Entry | None:
        """A member without a suffix is text where its first bytes may be."""
        try:
            handle = member.open()
            start = handle.read(_SNIFFED)
        except Damaged as damage:
            self.access.policy.bad("E101", name, str(damage), hint=damage.hint)
            return None
        if b"\0" in start:
            handle.close()
            self.access.policy.leave_out(members.NOT_TEXT, name)
            return None
        return Entry(name, member.size, "text", lambda: buffered(_Again(start, handle)))


class _Told:
    """A stream that knows how many bytes were read from it."""

    def __init__(self, inner: BinaryIO) -> None:
        self.inner = inner
        self.bytes = 0

    def read(self, size: int = -1) -> bytes:
        data = self.inner.read(size)
        self.bytes += len(data)
        return data

    def close(self) -> None:
        self.inner.close()


class _Again(Guarded):
    """A stream of which the first bytes were read already."""

    def __init__(self, start: bytes, inner: BinaryIO) -> None:
        super().__init__(inner, ())
        self.start = start

    def _next(self, most: int) -> bytes:
        if self.start:
            data, self.start = self.start[:most], self.start[most:]
            return data
        return super()._next(most)
