"""The headers of a tar archive, read from a stream."""

from __future__ import annotations

import tarfile
from collections.abc import Callable
from dataclasses import dataclass

from lumina.data.sources.entry import Damaged

BLOCK = tarfile.BLOCKSIZE

HEADER_BYTES = 2**20
"""The most bytes of a long name or of further fields. Names have some hundred."""

_PAX = (tarfile.XHDTYPE, tarfile.SOLARIS_XHDTYPE)
_LONG = {tarfile.GNUTYPE_LONGNAME: "path", tarfile.GNUTYPE_LONGLINK: "linkpath"}


@dataclass(frozen=True)
class Header:
    """A member of a tar archive.

    Attributes:
        name: its path.
        size: its bytes.
        type: one of tarfile's types.
        sparse: its bytes stand for more, with holes between them.
    """

    name: str
    size: int
    type: bytes
    sparse: bool = False

    @property
    def padded(self) -> int:
        """Bytes that it takes in the archive."""
        return -(-self.size // BLOCK) * BLOCK


def next_header(read: Callable[[int], bytes]) -> Header | None:
    """The next member's header; None at the end of the archive.

    After an end mark, zeros are passed over. An archive that follows was joined to the
    first one, and is read on.

    Args:
        read: gives this many bytes, fewer only where there are no more.

    Raises:
        Damaged: there is no header here, or one that is made to fill memory.
    """
    fields: dict[str, str] = {}
    ended = False
    while True:
        data = read(BLOCK)
        if not data and ended and not fields:
            return None
        if data and data.count(0) == len(data):
            ended = True
            continue
        info = _block(data)
        if info.type in _PAX or info.type == tarfile.XGLTYPE:
            content = _content(read, info)
            if info.type != tarfile.XGLTYPE:
                fields.update(_pax(content))
        elif info.type in _LONG:
            text = _content(read, info).split(b"\0", 1)[0]
            fields[_LONG[info.type]] = text.decode(errors="surrogateescape")
        else:
            break
    size = info.size
    if "size" in fields:
        try:
            size = int(fields["size"])
        except ValueError:
            raise Damaged("a header has a size that is no number") from None
    if info.type == tarfile.GNUTYPE_SPARSE:
        _skip_map(read, data)
    if size < 0:
        raise Damaged("a header has a size below 0")
    if info.type not in tarfile.REGULAR_TYPES:
        # Links and devices have no bytes, whatever their size says.
        size = size if info.type not in _EMPTY else 0
    sparse = info.type == tarfile.GNUTYPE_SPARSE or any(
        key.startswith("GNU.sparse.") for key in fields
    )
    name = fields.get("path", info.name)
    kind = info.type
    if kind == tarfile.AREGTYPE and name.endswith("/"):
        kind = tarfile.DIRTYPE
    return Header(name, size, kind, sparse)


_EMPTY = {
    tarfile.LNKTYPE, tarfile.SYMTYPE, tarfile.CHRTYPE, tarfile.BLKTYPE,
    tarfile.DIRTYPE, tarfile.FIFOTYPE,
}  # fmt: skip


def _skip_map(read: Callable[[int], bytes], header: bytes) -> None:
    """Pass over the blocks that list further pieces of a file with holes."""
    more = header[482]
    while more:
        block = read(BLOCK)
        if len(block) < BLOCK:
            raise Damaged("cut short within a header")
        more = block[504]


def _block(data: bytes) -> tarfile.TarInfo:
    if not data:
        raise Damaged("cut short: its end mark is missing")
    if len(data) < BLOCK:
        raise Damaged("cut short within a header")
    try:
        return tarfile.TarInfo.frombuf(data, "utf-8", "surrogateescape")
    except (tarfile.HeaderError, ValueError, IndexError) as error:
        raise Damaged(f"not a header of a tar archive ({error})") from None


def _content(read: Callable[[int], bytes], info: tarfile.TarInfo) -> bytes:
    """What a header of further fields holds."""
    if not 0 <= info.size <= HEADER_BYTES:
        raise Damaged(f"a header of {info.size:,} bytes; names have some hundred")
    padded = -(-info.size // BLOCK) * BLOCK
    data = read(padded)
    if len(data) < padded:
        raise Damaged("cut short within a header")
    return data[: info.size]


def _pax(data: bytes) -> dict[str, str]:
    """Fields of a pax header: lines of "LENGTH KEY=VALUE"."""
    fields: dict[str, str] = {}
    at = 0
    while at < len(data) and data[at]:
        space = data.find(b" ", at, at + 20)
        length = data[at:space] if space > 0 else b""
        if not length.isdigit() or not int(length):
            raise Damaged("a header with fields that cannot be read")
        end = at + int(length)
        key, equals, value = data[space + 1 : end - 1].partition(b"=")
        if not equals or end > len(data):
            raise Damaged("a header with fields that cannot be read")
        fields[key.decode(errors="surrogateescape")] = value.decode(
            errors="surrogateescape"
        )
        at = end
    return fields
