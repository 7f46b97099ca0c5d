"""Files that survive power loss: written, flushed to the device, renamed into place."""

from __future__ import annotations

import contextlib
import errno
import fcntl
import hashlib
import os
import re
import secrets
import shutil
from collections.abc import Iterator
from pathlib import Path
from typing import BinaryIO

from lumina.errors import LuminaError

_FULL = (errno.ENOSPC, errno.EDQUOT, errno.EFBIG)
_FORBIDDEN = (errno.EACCES, errno.EPERM, errno.EROFS)
_NO_PLACE = (errno.ENOENT, errno.ENOTDIR, errno.EISDIR, errno.EEXIST)
NO_LOCKS = (errno.ENOLCK, errno.ENOSYS, errno.EOPNOTSUPP)
"""What asking for a lock gives on a file system that has none."""


def write_file(path: Path, content: bytes) -> None:
    """Replace `path` as a whole; it is on the device when this returns.

    Any number of processes and threads may do so at once: each writes a temporary file
    of its own, and the last one to rename it wins. What a killed process left of one is
    removed by the next that writes `path`.
    """
    _remove_abandoned(path)
    with _temporary_of(path) as file:
        try:
            file.write(content)
            file.flush()
            os.fsync(file.fileno())
            os.replace(file.name, path)
        except BaseException:
            with contextlib.suppress(OSError):
                os.unlink(file.name)
            raise
    sync_folder(path.parent)


def _temporary_of(path: Path) -> BinaryIO:
    """A new file beside `path`, whose lock says as long as it is open that it is used.

    The system drops the lock when the process dies. A file system without locks leaves
    nobody able to take one, and then nothing is ever removed.
    """
    while True:
        name = path.with_name(f".{path.name}.{secrets.token_hex(4)}.tmp")
        try:
            file = open(name, "xb")  # noqa: SIM115
        except FileExistsError:
            continue
        with contextlib.suppress(OSError):
            fcntl.flock(file, fcntl.LOCK_EX)
        if os.fstat(file.fileno()).st_nlink:
            return file
        file.close()  # taken for abandoned between its making and its lock


def _remove_abandoned(path: Path) -> None:
    """Remove the temporary files of `path` that no living process holds."""
    pattern = re.compile(re.escape(f".{path.name}.") + r"[0-9a-f]{8}\.tmp")
    with contextlib.suppress(OSError):
        for name in filter(pattern.fullmatch, os.listdir(path.parent)):
            left = path.with_name(name)
            with contextlib.suppress(OSError), open(left, "rb") as file:
                fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
                os.unlink(left)


@contextlib.contextmanager
def changing(path: Path) -> Iterator[None]:
    """Keep others from changing `path` between its reading and its writing.

    Whoever reads a file, adds to it and writes it back does so in here: else two at
    once lose what one of them added. Other threads wait as other processes do; it is
    not to be entered twice. The lock is a file beside `path`, which stays, and the
    system drops it when the process dies. Where the file system has no locks, as on
    some clusters, nobody waits, and two at once may lose what one of them added.

    Raises:
        OSError: the folder is not there or may not be written.
    """
    with open(path.with_name(f".{path.name}.lock"), "ab") as lock:
        try:
            fcntl.flock(lock, fcntl.LOCK_EX)
        except OSError as error:
            if error.errno not in NO_LOCKS:
                raise
        yield


def sync_folder(folder: Path) -> None:
    """Make the names in a folder durable: a rename is lost without this."""
    descriptor = os.open(folder, os.O_RDONLY)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)


def sha256_of(path: Path, *, from_device: bool = False) -> str:
    """Digest of a file.

    Args:
        path: the file.
        from_device: drop its cached pages first (where the system can), so that the
            bytes come from the device and not from the memory they were written from.
    """
    with open(path, "rb") as file:
        if from_device and hasattr(os, "posix_fadvise"):
            with contextlib.suppress(OSError):  # advice; some file systems have none
                os.posix_fadvise(file.fileno(), 0, 0, os.POSIX_FADV_DONTNEED)
        return hashlib.file_digest(file, "sha256").hexdigest()


def free_bytes(folder: Path) -> int:
    """Bytes that can still be written under `folder`."""
    return shutil.disk_usage(folder).free


def write_error(error: OSError, path: Path) -> LuminaError:
    """The coded form of what the operating system said about writing to `path`."""
    if error.errno in _FULL:
        return LuminaError(
            "E204",
            f"no room to write {path} ({error.strerror})",
            "free some disk space or lower --save-total-limit; the checkpoints that "
            "were there are untouched",
        )
    if error.errno in _FORBIDDEN:
        return LuminaError(
            "E106",
            f"cannot write {path} ({error.strerror})",
            "choose a --run-dir that you may write to",
        )
    if error.errno in NO_LOCKS:
        return LuminaError(
            "E003",
            f"the file system of {path} has no file locks, so two processes could "
            "write there at once",
            "choose a folder on a file system that has them",
        )
    if error.errno in _NO_PLACE:
        return LuminaError(
            "E104", f"cannot write {path} ({error.strerror})", "check the path"
        )
    return LuminaError(
        "E303",
        f"{path} could not be written ({error.strerror})",
        "look at the disk's health; the checkpoints that were there are untouched",
    )
