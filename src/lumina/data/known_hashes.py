"""Hashes of large files, remembered as long as the files do not change.

A run's data is known by its content, and 100 GB take minutes to hash. So the hash is
kept in the cache beside what the file system says of the file: its device and inode,
size, and times of the last change of content and of anything. Changing a file in place
or putting another in its place changes one of them. Removing the folder `hashes` of the
cache makes the next run read everything again.
"""

from __future__ import annotations

import contextlib
import hashlib
import json
import os
import time
from pathlib import Path
from typing import Any

from lumina.cache_root import cache_root
from lumina.data.files import content_hash
from lumina.durable import write_file

WORTH_KEEPING = 2**20
"""Bytes from which on a file's hash is kept; smaller ones are read as fast."""

SETTLED_NS = 3 * 10**9
"""A file that changed less than this long ago may change again within one tick of its
file system's clock, unnoticed; its hash is not kept."""


def known_hash(path: Path) -> str:
    """`content_hash` of a file, without reading it where it was hashed as it is.

    Raises:
        LuminaError: E104 the file has gone.
    """
    before = _stamp(path)
    if before is None or before["size"] < WORTH_KEEPING:
        return content_hash(path)
    record = _record(path)
    with contextlib.suppress(OSError, ValueError, KeyError, TypeError):
        kept = json.loads(record.read_bytes())
        if kept["stamp"] == before:
            return str(kept["sha256"])
    found = content_hash(path)
    settled = time.time_ns() - max(before["mtime_ns"], before["ctime_ns"]) > SETTLED_NS
    if settled and found != "unreadable" and _stamp(path) == before:
        _keep(record, {"stamp": before, "sha256": found})
    return found


def _stamp(path: Path) -> dict[str, int] | None:
    """What tells a changed file; None where there is none to be seen."""
    try:
        found = os.stat(path)
    except OSError:
        return None
    return {
        "device": found.st_dev,
        "inode": found.st_ino,
        "size": found.st_size,
        "mtime_ns": found.st_mtime_ns,
        "ctime_ns": found.st_ctime_ns,
    }


def _record(path: Path) -> Path:
    name = hashlib.sha256(os.path.realpath(path).encode(errors="surrogateescape"))
    return cache_root() / "hashes" / f"{name.hexdigest()[:32]}.json"


def _keep(record: Path, value: dict[str, Any]) -> None:
    """Whole or not at all. Where it cannot be written, the file is read again."""
    with contextlib.suppress(OSError):
        record.parent.mkdir(parents=True, exist_ok=True)
        write_file(record, (json.dumps(value) + "\n").encode())
