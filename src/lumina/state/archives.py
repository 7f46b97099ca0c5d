"""Archives of a file of lines: what was taken out of it when it grew too large.

`metrics.jsonl` has `metrics.000001.jsonl.gz` and so on beside it, the oldest first. A
process may be killed between writing an archive and emptying the file, or between
putting archived lines back and removing the archives. The file then begins with the
first line of an archive: that archive and those after it count no more.
"""

from __future__ import annotations

import gzip
import os
from pathlib import Path

from lumina.durable import sync_folder


def archives(path: Path, first: bytes | None = None) -> list[Path]:
    """The archives that count, the oldest first.

    Args:
        path: the file of lines.
        first: its first line, for who has opened it and reads it afterwards. It may be
            archived meanwhile, and that archive then holds what the open file holds.
    """
    found = _all(path)
    if not found:
        return []
    first = _first_line_of(path) if first is None else first
    for place, one in enumerate(found):
        if first and first == _first_line_of(one):
            return found[:place]
    return found


def stale(path: Path) -> list[Path]:
    """The archives that count no more."""
    return _all(path)[len(archives(path)) :]


def archive(path: Path, content: bytes) -> None:
    """Write an archive of what the file holds; the caller then begins a new file.

    Args:
        path: the file.
        content: all of it.
    """
    number = len(_all(path)) + 1
    final = path.with_name(f"{path.stem}.{number:06d}{path.suffix}.gz")
    unfinished = path.with_name(f".{final.name}.tmp")
    with open(unfinished, "wb") as file:
        file.write(gzip.compress(content, mtime=0))
        file.flush()
        os.fsync(file.fileno())
    os.replace(unfinished, final)
    sync_folder(path.parent)


def archived_lines(path: Path) -> list[bytes]:
    """Every archived line of a file, with its end, in order."""
    lines: list[bytes] = []
    for one in archives(path):
        lines += gzip.decompress(one.read_bytes()).splitlines(keepends=True)
    return lines


def _all(path: Path) -> list[Path]:
    return sorted(path.parent.glob(f"{path.stem}.[0-9]*{path.suffix}.gz"))


def _first_line_of(path: Path) -> bytes:
    try:
        with gzip.open(path) if path.suffix == ".gz" else open(path, "rb") as file:
            return bytes(file.readline())
    except FileNotFoundError:
        return b""
