"""Paths, folders, patterns and names of data sets -> sources and their entries."""

from __future__ import annotations

import os
from collections.abc import Iterable, Iterator

from lumina.data.files import find_files
from lumina.data.sources import hub, plain, tar, zipped
from lumina.data.sources.entry import Access, Entry, Source, SourceKind
from lumina.data.sources.members import DATA
from lumina.errors import LuminaError

KINDS: tuple[SourceKind, ...] = (hub.KIND, tar.KIND, zipped.KIND, plain.KIND)
"""The kinds of source; the first that a name describes is taken."""

Paths = Iterable[str | os.PathLike[str]]


def find_sources(paths: Paths) -> list[Source]:
    """Every file and data set that `paths` mean, each once, in a fixed order.

    Raises:
        LuminaError: as `find_files`.
    """
    found: dict[str, Source] = {}
    given = [os.fspath(path) for path in paths]
    for path in given:
        if hub.KIND.describes(path):
            found.setdefault(path, Source(path, hub.KIND))
            continue
        for file in find_files([path], DATA):
            source = Source(os.fspath(file), _kind(file.name), file)
            found.setdefault(os.path.realpath(file), source)
    return list(found.values()) if given else _nothing()


def _nothing() -> list[Source]:
    find_files([], DATA)  # says that no data was named
    return []


def named_files(paths: Paths) -> list[str]:
    """Those of the paths that name files, folders or patterns."""
    given = [os.fspath(path) for path in paths]
    return [path for path in given if not hub.KIND.describes(path)]


def _kind(name: str) -> SourceKind:
    return next(kind for kind in KINDS if kind.describes(name))


def find_entries(
    paths: Paths | Iterable[Source], access: Access | None = None
) -> Iterator[Entry]:
    """The entries of everything that `paths` mean, in a fixed order.

    Those of an archive come in the order of its members, and each is to be read before
    the next is taken.

    Args:
        paths: what to read; see `find_sources`, which may have been called already.
        access: limits, and the policy for what cannot be read.

    Raises:
        LuminaError: E104 and other errors about a named path, always; what is wrong
            with an archive or with one of its members, where the policy says so.
    """
    access = access or Access()
    for source in sources_of(paths):
        said, any_entry = access.policy.said, False
        try:
            for entry in source.kind.entries(source, access):
                any_entry = True
                yield entry
            if not any_entry and access.policy.said == said:
                access.policy.bad("E105", source.name, "nothing in it")
        except PermissionError:
            access.policy.bad("E106", source.name, "this user may not read it")
        except FileNotFoundError:
            raise gone(source.name) from None
        access.position = None
        access.finished += source.size


def sources_of(paths: Paths | Iterable[Source]) -> list[Source]:
    """The sources of paths, or the sources as they are."""
    given = list(paths)
    if given and all(isinstance(one, Source) for one in given):
        return given  # type: ignore[return-value]
    return find_sources(given)  # type: ignore[arg-type]


def gone(name: str) -> LuminaError:
    """The error for a file that was there."""
    return LuminaError(
        "E104", f"{name}: the file has gone", "restore it, and start again"
    )
