"""Files that hold one stream of bytes, compressed or not."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path, PurePath
from typing import BinaryIO

from lumina.data.known_hashes import known_hash
from lumina.data.sources.compression import COMPRESSIONS
from lumina.data.sources.entry import Access, Entry, Source, SourceKind
from lumina.data.sources.guard import Guarded, Unpacked, buffered
from lumina.data.sources.members import Form, form_of
from lumina.data.sources.patient import patient


class Plain(SourceKind):
    """A file is one entry."""

    def describes(self, name: str) -> bool:
        """Whether there is a reader for the file, by its name."""
        return form_of(name) is not None

    def unpacks(self, name: str) -> bool:
        """Whether the file is compressed."""
        form = form_of(name)
        return form is not None and bool(form.compression)

    def may_hold(self, name: str, suffixes: tuple[str, ...]) -> bool:
        """Whether it has one of these suffixes, before that of its compression."""
        return any(
            suffix.lower() in suffixes for suffix in PurePath(name).suffixes[-2:]
        )

    def identity(self, source: Source) -> list[str]:
        """A file is known by its format and its bytes."""
        path, form = _file(source)
        return [f"{form.format}{form.compression}", known_hash(path)]

    def entries(self, source: Source, access: Access) -> Iterator[Entry]:
        """The file."""
        path, form = _file(source)
        assert form.format is not None

        def opened() -> BinaryIO:
            handle = patient(path)  # the entry's reader closes it
            access.position = handle.tell
            if not form.compression:
                return handle
            counts = Unpacked("the file", access.limits, handle.tell)
            try:
                inner = COMPRESSIONS[form.compression](handle)
            except BaseException:
                handle.close()
                raise
            return buffered(_Owner(inner, (counts,), handle))

        if form.compression:
            yield Entry(source.name, None, form.format, opened)
        else:
            yield Entry(source.name, source.size, form.format, opened, seekable=True)


class _Owner(Guarded):
    """A stream that closes the file below it, too."""

    def __init__(
        self, inner: BinaryIO, counts: tuple[Unpacked, ...], file: BinaryIO
    ) -> None:
        super().__init__(inner, counts)
        self.file = file

    def close(self) -> None:
        """Close both."""
        super().close()
        self.file.close()


def _file(source: Source) -> tuple[Path, Form]:
    form = form_of(source.name)
    assert source.path is not None and form is not None
    return source.path, form


KIND = Plain()
