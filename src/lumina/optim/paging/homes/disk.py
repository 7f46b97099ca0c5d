"""Pages in files, which have no name: the system removes them with the process.

What a run goes on from is a checkpoint, never such a file, so nothing of it has to
survive the process, and nothing is left behind when the process is killed.
"""

from __future__ import annotations

import errno
import mmap
import os
import tempfile
from pathlib import Path
from typing import IO, ClassVar

import torch
from torch import Tensor

from lumina.errors import LuminaError
from lumina.optim.paging.home import Home, register_home
from lumina.quantities import byte_size

AT_A_TIME = 2**30
"""Most bytes of one call to the system, which takes less than 2 GiB."""

_FULL = (errno.ENOSPC, errno.EDQUOT, errno.EFBIG)


@register_home
class Disk(Home):
    """A file of its own, whose blocks are reserved before the first step.

    Raises:
        LuminaError: E204 where there is no room for it, E106 where the folder may not
            be written to, E104 where it cannot be made.
    """

    staged: ClassVar[bool] = True

    def __init__(self, size: int, folder: Path, *, pinned: bool) -> None:
        self.size, self.folder = size, folder
        self._file = _reserved(size, folder)
        self._next: IO[bytes] | None = None
        self._kept: Tensor | None = None
        self.rest = _mapped(self._file, size, mmap.ACCESS_WRITE)

    def read(self, into: Tensor | None) -> Tensor:
        """The bytes of the file, in the memory given."""
        assert into is not None
        view, at = into.numpy().data, 0
        while at < self.size:
            part = view[at : min(at + AT_A_TIME, self.size)]
            try:
                got = os.preadv(self._file.fileno(), [part], at)
            except OSError as error:
                raise self._failed(error) from error
            if not got:
                raise self._failed(OSError(errno.EIO, "the file has become shorter"))
            at += got
        return into

    def target(self, staging: Tensor | None) -> Tensor:
        """The memory that the file is written from."""
        assert staging is not None
        return staging

    def write(self, content: Tensor) -> None:
        """Overwrite the file, or write the next one where this one is to stay."""
        self._turn()
        view, at = content.numpy().data, 0
        while at < self.size:
            part = view[at : min(at + AT_A_TIME, self.size)]
            try:
                at += os.pwritev(self._file.fileno(), [part], at)
            except OSError as error:
                raise self._failed(error) from error

    def still(self) -> Tensor | None:
        """The file itself: the next content gets another one, reserved here.

        None where the disk has no room for another one.
        """
        if self._kept is None:
            try:
                self._next = _reserved(self.size, self.folder)
            except LuminaError:
                return None
            # A private mapping: what is changed in it is changed in memory alone.
            self._kept = _mapped(self._file, self.size, mmap.ACCESS_COPY)
        return self._kept

    def _turn(self) -> None:
        """Release a file that is to stay as it is; those who mapped it keep it."""
        if self._next is None:
            return
        self._file.close()
        self._file, self._next, self._kept = self._next, None, None
        self.rest = _mapped(self._file, self.size, mmap.ACCESS_WRITE)

    def _failed(self, error: OSError) -> LuminaError:
        return _coded(error, self.size, self.folder)

    def close(self) -> None:
        """Release the file."""
        self._file.close()
        if self._next is not None:
            self._next.close()


def _reserved(size: int, folder: Path) -> IO[bytes]:
    """A file without a name, with room for all of its bytes."""
    try:
        folder.mkdir(parents=True, exist_ok=True)
        # Its home closes it.
        file: IO[bytes] = tempfile.TemporaryFile(dir=folder, buffering=0)  # noqa: SIM115
    except OSError as error:
        raise _coded(error, size, folder) from error
    if not size:  # a page whose parameters have no state; no system reserves nothing
        return file
    try:
        # Without blocks of its own, a mapped file would end the process when the disk
        # is full; a write could fail in the middle of a step.
        if hasattr(os, "posix_fallocate"):
            os.posix_fallocate(file.fileno(), 0, size)
        else:
            for at in range(0, size, 2**20):
                file.write(bytes(min(2**20, size - at)))
    except OSError as error:
        file.close()
        raise _coded(error, size, folder) from error
    return file


def _mapped(file: IO[bytes], size: int, access: int) -> Tensor:
    """[size] uint8 whose memory is the file's."""
    if not size:
        return torch.empty(0, dtype=torch.uint8)
    return torch.frombuffer(
        mmap.mmap(file.fileno(), size, access=access), dtype=torch.uint8
    )


def _coded(error: OSError, size: int, folder: Path) -> LuminaError:
    """What the system said about a page, with a way out."""
    said = f"{byte_size(size)} of the optimizer's states in {folder}: {error.strerror}"
    if error.errno in _FULL:
        return LuminaError(
            "E204",
            said,
            "free some disk space, or name a folder of another disk with "
            "--offload-folder; the run goes on from its last checkpoint",
        )
    if error.errno in (errno.EACCES, errno.EPERM, errno.EROFS):
        return LuminaError("E106", said, "name another --offload-folder")
    if error.errno in (errno.ENOENT, errno.ENOTDIR, errno.EEXIST):
        return LuminaError("E104", said, "name another --offload-folder")
    return LuminaError(
        "E303",
        said,
        "look at the disk's health; the run goes on from its last checkpoint",
    )
