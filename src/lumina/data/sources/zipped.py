"""Zip archives: their list of members stands at their end."""

from __future__ import annotations

import stat
import struct
import zipfile
from collections.abc import Iterator
from functools import partial
from typing import BinaryIO, cast

from lumina.data.known_hashes import known_hash
from lumina.data.sources import members
from lumina.data.sources.archive import REFUSED, Member, Members
from lumina.data.sources.entry import (
    RATIO_FROM,
    Access,
    Damaged,
    Entry,
    Source,
    SourceKind,
)
from lumina.data.sources.guard import DAMAGE, Guarded, Unpacked, buffered

_DAMAGE: tuple[type[Exception], ...] = (
    *DAMAGE,
    struct.error,
    OverflowError,
    KeyError,
    RuntimeError,
)


class Zip(SourceKind):
    """Members come in the order of the archive's list, each by itself."""

    def describes(self, name: str) -> bool:
        """Whether a file is a zip archive, by its name."""
        return name.lower().endswith(members.ZIP_SUFFIX)

    def identity(self, source: Source) -> list[str]:
        """An archive is known by its bytes."""
        assert source.path is not None
        return ["zip", known_hash(source.path)]

    def entries(self, source: Source, access: Access) -> Iterator[Entry]:
        """The members that hold data."""
        assert source.path is not None
        with open(source.path, "rb") as handle:
            access.position = handle.tell
            try:
                archive = zipfile.ZipFile(handle)
            except _DAMAGE as error:
                access.policy.bad(
                    "E101",
                    source.name,
                    f"the archive is damaged or cut short ({error}); the list of its "
                    "members stands at its end, so none of them can be read",
                    hint="fetch it again, or leave it out with --data-errors skip",
                )
                return
            with archive:
                size = source.size
                unpacked = Unpacked("the archive", access.limits, lambda: size)
                chosen = Members(source.name, access, unpacked)
                for info in archive.infolist():
                    entry = _entry(archive, info, chosen)
                    if entry is not None:
                        yield entry


def _entry(
    archive: zipfile.ZipFile, info: zipfile.ZipInfo, chosen: Members
) -> Entry | None:
    """The entry for a member; None where it is not read, which is reported."""
    policy, name = chosen.access.policy, chosen.name(info.filename)
    mode = info.external_attr >> 16
    if info.is_dir():
        return None
    if stat.S_ISLNK(mode):
        policy.leave_out(members.LINKS, name)
        return None
    if stat.S_IFMT(mode) not in (0, stat.S_IFREG):
        policy.leave_out(members.DEVICES, name)
        return None
    if isinstance(members.member_form(info.filename), members.Form):
        limits = chosen.access.limits
        if info.flag_bits & 1:
            policy.bad("E101", name, "this member is encrypted", hint=REFUSED)
            return None
        most = limits.ratio * max(info.compress_size, 1)
        if info.file_size > max(RATIO_FROM, most):
            policy.bad(
                "E101",
                name,
                f"this member unpacks to more than {limits.ratio:g} times its size, as "
                "files do that are made to fill a machine",
                hint="raise --max-unpacking-ratio if this is right",
            )
            return None
    return chosen.entry(
        Member(info.filename, info.file_size, partial(_open, archive, info, chosen))
    )


def _open(archive: zipfile.ZipFile, info: zipfile.ZipInfo, chosen: Members) -> BinaryIO:
    try:
        inner = cast(BinaryIO, archive.open(info))
    except _DAMAGE as error:
        raise Damaged(f"damaged ({error})") from None
    # No size: the reader checks the member's checksum only where it meets its end.
    return buffered(Guarded(inner, (chosen.unpacked,)))


KIND = Zip()
