"""Which files a list of paths, folders and globs means, and their formats."""

from __future__ import annotations

import glob
import hashlib
import os
import stat
from collections.abc import Iterable, Iterator, Mapping
from pathlib import Path
from typing import NoReturn

from lumina.errors import LuminaError

FORMATS: dict[str, str] = {
    ".txt": "text",
    ".text": "text",
    ".jsonl": "jsonl",
    ".ndjson": "jsonl",
}
"""Suffix -> format. A folder is searched for these; anything else in it is ignored."""


def file_format(path: Path, formats: Mapping[str, str] = FORMATS) -> str:
    """The format of a file, by its suffix (E101 when there is none for it)."""
    try:
        return formats[path.suffix.lower()]
    except KeyError:
        suffix = path.suffix or "no suffix"
        raise LuminaError(
            "E101",
            f"{path}: cannot read this kind of file ({suffix})",
            f"give one of {', '.join(formats)}",
        ) from None


def find_files(
    paths: Iterable[str | os.PathLike[str]], formats: Mapping[str, str] = FORMATS
) -> list[Path]:
    """Every data file that `paths` mean, each once, in a fixed order.

    A file stands for itself, a folder for the data files under it (sorted, hidden
    ones left out), a pattern with ``*``, ``?`` or ``[`` for its sorted matches.

    Args:
        paths: what was named.
        formats: suffixes of data files, with what they are.

    Raises:
        LuminaError: E104 nothing at a path, E106 no permission, E101 an unsupported
            suffix, E105 a folder without data files, or no path at all.
    """
    found: dict[str, Path] = {}
    named = False
    for path in paths:
        named = True
        for file in _expand(os.path.expanduser(os.fspath(path)), formats):
            found.setdefault(os.path.realpath(file), file)
    if not named:
        raise LuminaError("E105", "no data was named", "name files with --train-data")
    return list(found.values())


def _expand(path: str, formats: Mapping[str, str]) -> list[Path]:
    mode = _mode(path)
    if mode is None:
        return _matches(path, formats)
    if stat.S_ISDIR(mode):
        files = sorted(_walk(path, formats), key=os.fspath)
        if not files:
            raise LuminaError(
                "E105",
                f"{path}: no data files in this folder",
                f"put {', '.join(formats)} there",
            )
        return files
    if not stat.S_ISREG(mode):
        known = ", ".join(formats)
        raise LuminaError("E101", f"{path}: not a regular file", f"give {known}")
    file_format(Path(path), formats)
    return [Path(path)]


def _mode(path: str) -> int | None:
    """The mode of what is at `path`, or None when there is nothing."""
    try:
        return os.stat(path).st_mode
    except PermissionError:
        raise no_permission(path) from None
    except (OSError, ValueError):
        return None


def _matches(pattern: str, formats: Mapping[str, str]) -> list[Path]:
    if not glob.has_magic(pattern):
        raise LuminaError(
            "E104", f"{pattern}: there is nothing at this path", "check the spelling"
        )
    files = [
        Path(match)
        for match in sorted(glob.glob(pattern, recursive=True))
        if os.path.isfile(match)
    ]
    if not files:
        raise LuminaError(
            "E104", f"{pattern}: no file matches this pattern", "check the pattern"
        )
    for file in files:
        file_format(file, formats)
    return files


def _walk(folder: str, formats: Mapping[str, str]) -> Iterator[Path]:
    def refuse(error: OSError) -> NoReturn:
        if isinstance(error, PermissionError):
            raise no_permission(str(error.filename)) from None
        raise LuminaError(
            "E104", f"{error.filename}: {error.strerror}", "check the folder"
        )

    for root, folders, names in os.walk(folder, onerror=refuse):
        folders[:] = [name for name in folders if not name.startswith(".")]
        for name in names:
            path = Path(root, name)
            if not name.startswith(".") and path.suffix.lower() in formats:
                yield path


def no_permission(path: str | os.PathLike[str]) -> LuminaError:
    """The error for a path this user may not read."""
    return LuminaError(
        "E106",
        f"{os.fspath(path)}: this user may not read it",
        f"chmod +r {os.fspath(path)}, or run as its owner",
    )


def content_hash(path: Path) -> str:
    """sha256 of a file's bytes, in hex; "unreadable" when it may not be read.

    The reader decides what an unreadable file means (stop or skip).
    """
    try:
        with open(path, "rb") as file:
            return hashlib.file_digest(file, "sha256").hexdigest()
    except PermissionError:
        return "unreadable"
    except FileNotFoundError:
        raise LuminaError(
            "E104", f"{path}: the file has gone", "restore it, and start again"
        ) from None
