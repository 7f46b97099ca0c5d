"""Append-only files of one strict JSON object a line, readable after any kill."""

from __future__ import annotations

import contextlib
import errno
import fcntl
import gzip
import json
import math
import os
import threading
from collections.abc import Iterable, Iterator
from itertools import islice
from pathlib import Path
from typing import Any, NoReturn

from lumina.durable import write_file
from lumina.errors import LuminaError
from lumina.state.archives import archives

_FULL = (errno.ENOSPC, errno.EDQUOT, errno.EFBIG)


class JsonLinesFile:
    """Appends rows; each reaches the operating system whole before `append` returns.

    A line that a killed writer left torn at the end is cut off at opening. A file that
    is deleted while it is open is written again with all of its rows, where its folder
    is still there. Safe to use from several threads. Several processes may append, as
    the one that watches over a training does; only one may begin the file anew.

    Raises:
        LuminaError: E106 without permission, E104 when `path` cannot be a file, E204
            when the disk is full (the file then still ends with a whole row).
    """

    def __init__(self, path: str | os.PathLike[str]) -> None:
        self.path = Path(path)
        self._lock = threading.Lock()
        try:
            self.path.parent.mkdir(parents=True, exist_ok=True)
            # Unbuffered: nothing to lose when the process dies.
            self._file = open(self.path, "a+b", buffering=0)  # noqa: SIM115
            with self._alone():
                self._cut_torn_end()
        except OSError as error:
            raise file_error(error, self.path) from error

    def append(self, row: dict[str, Any]) -> None:
        """Write one row. NaN and the infinities become null."""
        line = encode_row(row).encode() + b"\n"
        with self._lock:
            try:
                if not os.fstat(self._file.fileno()).st_nlink:
                    self._restore()
            except OSError as error:
                raise file_error(error, self.path) from error
            with self._alone():
                self._write(line)

    def _write(self, line: bytes) -> None:
        end = self._file.seek(0, os.SEEK_END)
        try:
            written = 0
            while written < len(line):
                written += self._file.write(line[written:]) or 0
        except OSError as error:
            # Half a row would spoil the next one.
            self._file.truncate(end)
            raise file_error(error, self.path) from error

    def close(self) -> None:
        """Give the file back; harmless when repeated."""
        self._file.close()

    def begin_anew(self) -> None:
        """Go on in an empty file, once the rows so far are safe elsewhere.

        It takes the place of the present one, which whoever reads it can read to its
        end.
        """
        with self._lock:
            write_file(self.path, b"")
            self._file.close()
            self._file = open(self.path, "a+b", buffering=0)  # noqa: SIM115

    def _restore(self) -> None:
        """Give the deleted file its name back; one that took its place stays."""
        if not self.path.exists():
            self._file.seek(0)
            write_file(self.path, self._file.read())
        self._file.close()
        self._file = open(self.path, "a+b", buffering=0)  # noqa: SIM115

    @contextlib.contextmanager
    def _alone(self) -> Iterator[None]:
        """Keep other processes from writing; without it where there are no locks.

        A row that another writes at this moment looks torn, and what is cut off the end
        must be the end still.
        """
        file = self._file
        with contextlib.suppress(OSError):
            fcntl.flock(file, fcntl.LOCK_EX)
        try:
            yield
        finally:
            with contextlib.suppress(OSError):
                fcntl.flock(file, fcntl.LOCK_UN)

    def _cut_torn_end(self) -> None:
        content = self.path.read_bytes()
        good = len(content)
        while good:
            start = content.rfind(b"\n", 0, good - 1) + 1
            line = content[start:good]
            if line.endswith(b"\n") and _is_row(line):
                break
            good = start
        if good < len(content):
            self._file.truncate(good)


def encode_row(row: dict[str, Any]) -> str:
    """One line of strict JSON; scalars of torch and numpy count as numbers."""
    return json.dumps(_plain(row), allow_nan=False, separators=(",", ":"))


def read_json_lines(path: str | os.PathLike[str]) -> list[dict[str, Any]]:
    """All rows of a file; a torn last line is left out.

    Raises:
        LuminaError: E104 when there is no such file, E101 for a broken line that is not
            the last, naming it.
    """
    return list(iterate_json_lines(path))


def iterate_json_lines(path: str | os.PathLike[str]) -> Iterator[dict[str, Any]]:
    """The same one by one, for a file that is larger than its rows may take.

    What was taken out of the file into archives comes first.

    Raises:
        LuminaError: as `read_json_lines`, while it is read.
    """
    path, given = Path(path), 0
    while True:
        try:
            for row in islice(_all_rows(path), given, None):
                given += 1
                yield row
            return
        except _ArchiveGone:
            pass  # its rows were put back into the file: it goes on behind `given`


class _ArchiveGone(Exception):
    """An archive that was there when the reading began."""


def _all_rows(path: Path) -> Iterator[dict[str, Any]]:
    """Of the archives and the file.

    The file is opened first. When it is archived meanwhile another takes its name, and
    this one keeps its rows.
    """
    try:
        with open(path, "rb") as file:
            for one in archives(path, file.readline()):
                try:
                    yield from rows_of(one)
                except LuminaError as error:
                    if one.name in os.listdir(one.parent):
                        raise
                    raise _ArchiveGone from error
            file.seek(0)
            yield from _rows(file, path)
    except OSError as error:
        raise file_error(error, path) from error


def rows_of(path: Path) -> Iterator[dict[str, Any]]:
    """The rows of one file alone, which may be compressed; see `read_json_lines`."""
    try:
        with gzip.open(path) if path.suffix == ".gz" else open(path, "rb") as file:
            yield from _rows(file, path)
    except OSError as error:
        raise file_error(error, path) from error


def _rows(lines: Iterable[bytes], path: Path) -> Iterator[dict[str, Any]]:
    for number, line in enumerate(lines, start=1):
        try:
            row = _parse(line.removesuffix(b"\n"))
        except ValueError as error:
            if not line.endswith(b"\n"):
                return  # the last one, cut off
            raise LuminaError(
                "E101",
                f"{path}, line {number} is not a JSON object: {error}",
                "mend or delete that line",
            ) from error
        yield row


def file_error(error: OSError, path: Path) -> LuminaError:
    """The coded form of what the operating system said."""
    if error.errno in _FULL:
        return LuminaError(
            "E204", f"no room to write {path}", "free some disk space, then resume"
        )
    if error.errno in (errno.EACCES, errno.EPERM, errno.EROFS):
        return LuminaError(
            "E106", f"{path}: {error.strerror}", "choose a place you may write to"
        )
    return LuminaError("E104", f"{path}: {error.strerror}", "check the path")


def _plain(value: Any) -> Any:
    if value is None or isinstance(value, str | bool):
        return value
    if isinstance(value, dict):
        return {str(key): _plain(item) for key, item in value.items()}
    if isinstance(value, list | tuple):
        return [_plain(item) for item in value]
    if not isinstance(value, int | float) and hasattr(value, "tolist"):
        return _plain(value.tolist())  # a tensor or array, of any number of dimensions
    if isinstance(value, int):
        return int(value)
    if isinstance(value, float):
        return float(value) if math.isfinite(value) else None
    if isinstance(value, os.PathLike):
        return os.fspath(value)
    raise TypeError(f"a {type(value).__name__} cannot be a JSON value")


def _parse(line: bytes) -> dict[str, Any]:
    value = json.loads(line.decode("utf-8"), parse_constant=_refuse)
    if not isinstance(value, dict):
        raise ValueError(f"it is a {type(value).__name__}")
    return value


def _refuse(token: str) -> NoReturn:
    raise ValueError(f"{token} is not strict JSON")


def _is_row(line: bytes) -> bool:
    try:
        _parse(line)
    except ValueError:
        return False
    return True
