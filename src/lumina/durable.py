"""Files that survive power loss: written, flushed to the device, renamed into place."""

from __future__ import annotations

import contextlib
import errno
import hashlib
import os
import shutil
from pathlib import Path

from lumina.errors import LuminaError

_FULL = (errno.ENOSPC, errno.EDQUOT, errno.EFBIG)
_FORBIDDEN = (errno.EACCES, errno.EPERM, errno.EROFS)
_NO_PLACE = (errno.ENOENT, errno.ENOTDIR, errno.EISDIR, errno.EEXIST)


def write_file(path: Path, content: bytes) -> None:
    """Replace `path` as a whole; it is on the device when this returns."""
    temporary = path.with_name(f".{path.name}.tmp")
    with open(temporary, "wb") as file:
        file.write(content)
        file.flush()
        os.fsync(file.fileno())
    os.replace(temporary, path)
    sync_folder(path.parent)


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
    if error.errno in _NO_PLACE:
        return LuminaError(
            "E104", f"cannot write {path} ({error.strerror})", "check the path"
        )
    return LuminaError(
        "E303",
        f"{path} could not be written ({error.strerror})",
        "look at the disk's health; the checkpoints that were there are untouched",
    )
