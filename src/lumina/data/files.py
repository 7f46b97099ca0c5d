"""Which files a list of paths, folders and globs means."""

from __future__ import annotations

import glob
import hashlib
import os
import shlex
import stat
from collections import Counter
from collections.abc import Callable, Iterable, Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import NoReturn, Protocol

from lumina.errors import LuminaError, shell_path


class Wanted(Protocol):
    """Which files are data."""

    @property
    def searched(self) -> tuple[str, ...]:
        """The suffixes that a folder is searched for, as they are listed."""

    @property
    def by_name(self) -> tuple[str, ...]:
        """Further suffixes, of files that are read only where a path names them."""

    def in_folder(self, file: Path) -> bool:
        """Whether the file is data where it is found in a folder."""

    def named(self, file: Path) -> bool:
        """Whether the file can be read where a path or a pattern names it."""


@dataclass(frozen=True)
class Suffixes:
    """Files are data by their last suffix.

    Attributes:
        searched: suffixes that a folder is searched for.
        by_name: suffixes of files that are read only where they are named.
    """

    searched: tuple[str, ...]
    by_name: tuple[str, ...] = ()

    def in_folder(self, file: Path) -> bool:
        """Whether the file is data where it is found in a folder."""
        return file.suffix.lower() in self.searched

    def named(self, file: Path) -> bool:
        """Whether the file can be read where a path or a pattern names it."""
        return file.suffix.lower() in (*self.searched, *self.by_name)


PLAIN = Suffixes((".txt", ".text", ".jsonl", ".ndjson"), (".md", ".markdown", ".rst"))
"""Files of lines."""

OTHER_FILES = "other files"
"""Files in a folder of data that are there for people, or have no suffix."""

LINKED_FOLDERS = "linked folders"
SPECIAL_FILES = "pipes, sockets and devices"
MATCHED_FOLDERS = "folders that match a pattern"

_FOR_PEOPLE = ("readme", "license", "licence", "copying", "notice", "changelog")
_COMPRESSED = {".gz", ".bz2", ".xz", ".zst", ".lz4", ".br", ".z"}


def find_files(
    paths: Iterable[str | os.PathLike[str]], wanted: Wanted = PLAIN
) -> list[Path]:
    """Every data file that `paths` mean, each once, in a fixed order.

    A file stands for itself, a folder for the data files under it (sorted, hidden
    ones left out), a pattern with ``*``, ``?`` or ``[`` for its sorted matches.

    Args:
        paths: what was named.
        wanted: which files are data.

    Raises:
        LuminaError: E104 nothing at a path, E106 no permission, E101 an unsupported
            suffix, E105 a folder without data files, or no path at all.
    """
    found: dict[str, Path] = {}
    paths = list(paths)
    for file in _named(paths, wanted):
        found.setdefault(os.path.realpath(file), file)
    if not paths:
        raise LuminaError("E105", "no data was named", "name files with --train-data")
    return list(found.values())


def _named(paths: Iterable[str | os.PathLike[str]], wanted: Wanted) -> Iterator[Path]:
    """Every data file that `paths` mean, as often as they mean it."""
    for path in paths:
        yield from _expand(os.path.expanduser(os.fspath(path)), wanted)


def tell_repeated(
    paths: Iterable[str | os.PathLike[str]],
    on_event: Callable[..., None] | None,
    wanted: Wanted = PLAIN,
) -> None:
    """Say which files are named more than once: naming them again changes nothing."""
    if on_event is None:
        return
    times = Counter(os.path.realpath(file) for file in _named(paths, wanted))
    counts = most_first(
        {
            os.path.relpath(file).encode(errors="backslashreplace").decode(): count
            for file, count in times.items()
            if count > 1
        }
    )
    if counts:
        on_event(
            kind="data_files_repeated",
            severity="warning",
            code=None,
            message="files named more than once are read once: "
            f"{counted(counts, shown=3)}; to train on a file more often, name a copy "
            "of it",
            counts=counts,
        )


def _expand(path: str, wanted: Wanted) -> list[Path]:
    mode = _mode(path)
    if mode is None:
        return _matches(path, wanted)
    if stat.S_ISDIR(mode):
        files = sorted(_walk(path, wanted), key=os.fspath)
        if not files:
            left_out = count_left_out([path], wanted)
            there = f"; it has {counted(left_out)}" if left_out else ""
            raise LuminaError(
                "E105",
                f"{path}: no data files in this folder{there}",
                f"put {', '.join(wanted.searched)} there"
                + _by_name(path, left_out, wanted),
            )
        return files
    if not stat.S_ISREG(mode):
        known = ", ".join(wanted.searched)
        raise LuminaError("E101", f"{path}: not a regular file", f"give {known}")
    _check_named(Path(path), wanted)
    return [Path(path)]


def _check_named(file: Path, wanted: Wanted) -> None:
    """Refuse a file that was named and cannot be read."""
    if not wanted.named(file):
        raise LuminaError(
            "E101",
            f"{file}: cannot read this kind of file ({file.suffix or 'no suffix'})",
            f"give one of {', '.join((*wanted.searched, *wanted.by_name))}",
        )


def _by_name(folder: str, left_out: Mapping[str, int], wanted: Wanted) -> str:
    """How the text in a folder is named that it is not searched for."""
    there = [suffix for suffix in wanted.by_name if suffix in left_out]
    if not there:
        return ""
    pattern = os.path.join(folder, "**", f"*{there[0]}")
    return f"; or name the {there[0]} files by a pattern: {shlex.quote(pattern)}"


def _mode(path: str) -> int | None:
    """The mode of what is at `path`, or None when there is nothing."""
    try:
        return os.stat(path).st_mode
    except PermissionError:
        raise no_permission(path) from None
    except (OSError, ValueError):
        return None


def _matches(pattern: str, wanted: Wanted) -> list[Path]:
    if not glob.has_magic(pattern):
        remote = "://" in pattern
        raise LuminaError(
            "E104",
            f"{pattern or repr(pattern)}: there is nothing at this path",
            "fetch it first, and name the file: of addresses, only hf:// is read"
            if remote
            else "check the spelling; a data set of the Hugging Face hub is named hf://NAME",
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
        _check_named(file, wanted)
    return files


def count_left_out(
    paths: Iterable[str | os.PathLike[str]], wanted: Wanted = PLAIN
) -> dict[str, int]:
    """How much in the folders that `paths` mean is no data that can be read.

    Returns:
        Counts by suffix, a compressed file's with the suffix before it
        (".jsonl.gz"); of `OTHER_FILES`; of `SPECIAL_FILES`; and of folders that are not
        opened: those behind a link in a folder, and those that a pattern matches. The
        highest first.
    """
    kinds: dict[str, str] = {}
    for path in paths:
        path = os.path.expanduser(os.fspath(path))
        mode = _mode(path)
        if mode is None:
            for match in glob.iglob(path, recursive=True):
                if os.path.isdir(match) and "**" not in path:
                    kinds[os.path.abspath(match)] = MATCHED_FOLDERS
        elif stat.S_ISDIR(mode):
            for files, folders in _levels(path):
                for file in files:
                    if wanted.in_folder(file) and _is_special(file):
                        kinds[os.path.abspath(file)] = SPECIAL_FILES
                    elif not wanted.in_folder(file):
                        kinds[os.path.abspath(file)] = kind_of(file.name)
                for folder in folders:
                    if folder.is_symlink():
                        kinds[os.path.abspath(folder)] = LINKED_FOLDERS
    return most_first(Counter(kinds.values()))


def is_for_people(name: str) -> bool:
    """Whether a file is about the data rather than data, by its name."""
    return name.lower().startswith(_FOR_PEOPLE)


def kind_of(name: str) -> str:
    """Under which name a file counts that is not read, by its own name."""
    suffixes = Path(name).suffixes
    if not suffixes or is_for_people(name):
        return OTHER_FILES
    compressed = len(suffixes) > 1 and suffixes[-1].lower() in _COMPRESSED
    kind = "".join(suffixes[-2:] if compressed else suffixes[-1:]).lower()
    return kind.encode(errors="backslashreplace").decode()


def tell_left_out(
    counts: Mapping[str, int],
    on_event: Callable[..., None] | None,
    wanted: Wanted = PLAIN,
) -> None:
    """Say once what `count_left_out` found; a warning where it may be data."""
    if counts and on_event is not None:
        on_event(
            kind="data_files_ignored",
            severity="warning" if set(counts) - {OTHER_FILES} else "info",
            code=None,
            message=f"not read: {counted(counts)}; of a folder, "
            f"{', '.join(wanted.searched)} files are read: convert or unpack what is "
            f"to be trained on, and name further folders{_named_texts(counts, wanted)}",
            counts=dict(counts),
        )


def _named_texts(counts: Mapping[str, int], wanted: Wanted) -> str:
    """Which of the files left out would be read if they were named."""
    there = [suffix for suffix in wanted.by_name if suffix in counts]
    if not there:
        return ""
    return f"; {' and '.join(there)} files are read where a pattern names them"


def most_first(counts: Mapping[str, int]) -> dict[str, int]:
    """The counts, the highest first, and those that are equal by name."""
    return dict(sorted(counts.items(), key=lambda item: (-item[1], item[0])))


def counted(counts: Mapping[str, int], shown: int = 10) -> str:
    """The names with their counts, and how many further names there are."""
    parts = [f"{name} ({count:,})" for name, count in list(counts.items())[:shown]]
    if len(counts) > shown:
        parts.append(f"and {len(counts) - shown:,} more names")
    return ", ".join(parts)


def _walk(folder: str, wanted: Wanted) -> Iterator[Path]:
    for files, _ in _levels(folder):
        yield from (p for p in files if wanted.in_folder(p) and not _is_special(p))


def _is_special(path: Path) -> bool:
    """Whether it is a pipe, a socket or a device: to open it may wait for ever."""
    try:
        mode = os.stat(path).st_mode
    except OSError:
        return False  # what reads it says what is wrong
    return not stat.S_ISREG(mode)


def _levels(folder: str) -> Iterator[tuple[list[Path], list[Path]]]:
    """The files and folders at every level of a folder, hidden ones left out."""

    def refuse(error: OSError) -> NoReturn:
        if isinstance(error, PermissionError):
            raise no_permission(str(error.filename)) from None
        raise LuminaError(
            "E104", f"{error.filename}: {error.strerror}", "check the folder"
        )

    for root, folders, names in os.walk(folder, onerror=refuse):
        folders[:] = [name for name in folders if not name.startswith(".")]
        seen = [Path(root, name) for name in names if not name.startswith(".")]
        yield seen, [Path(root, name) for name in folders]


def no_permission(path: str | os.PathLike[str]) -> LuminaError:
    """The error for a path this user may not read."""
    return LuminaError(
        "E106",
        f"{os.fspath(path)}: this user may not read it",
        f"chmod +r {shell_path(path)}, or run as its owner",
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
