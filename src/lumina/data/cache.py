"""Build something expensive once, under a key, safely.

Two processes at once are safe (one builds, the other waits and uses it), and a process
killed half-way leaves nothing that could be taken for the finished thing: it is built
in a temporary folder, made durable, and only then renamed into place.
"""

from __future__ import annotations

import contextlib
import errno
import fcntl
import os
import shutil
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import TypeVar

from lumina.durable import NO_LOCKS
from lumina.errors import LuminaError

T = TypeVar("T")

_SMALLEST_RESERVE = 16 * 2**20


@dataclass
class Lookups:
    """What this process looked for in the cache.

    Attributes:
        found: what was there already.
        asked: all of it.
    """

    found: int = 0
    asked: int = 0

    def since(self, before: Lookups) -> str:
        """The share that was found after an earlier count, in words."""
        found, asked = self.found - before.found, self.asked - before.asked
        return f"{found} of {asked} found" if asked else "not asked"


LOOKUPS = Lookups()
"""Counts of this process."""


def build_once(
    folder: Path,
    key: str,
    build: Callable[[Path], None],
    load: Callable[[Path], T],
    on_damage: Callable[[LuminaError], None] | None = None,
) -> tuple[T, bool]:
    """What `load` makes of ``folder/key``, building it first when needed.

    Args:
        folder: where such things are kept.
        key: names the content; equal keys mean equal content.
        build: fills the empty folder that it is given.
        load: opens a finished folder; a LuminaError means it is damaged, and it is
            built anew.
        on_damage: is called with the error of such a damage.

    Returns:
        (what `load` returned, whether it was there already).

    Raises:
        LuminaError: E204 the disk is full, E106 the cache may not be written, E104
            it cannot be where it is said to be, E003 its file system has no locks.
    """
    final = folder / key
    LOOKUPS.asked += 1
    with _coded_errors(folder):
        folder.mkdir(parents=True, exist_ok=True)
        with _lock(folder / f"{key}.lock"):
            if final.is_dir():
                try:
                    loaded = load(final)
                    LOOKUPS.found += 1
                    return loaded, True
                except LuminaError as error:
                    if on_damage is not None:
                        on_damage(error)
                    shutil.rmtree(final)
            _remove_stale(folder, key)
            temporary = folder / f".tmp-{key}-{os.getpid()}"
            temporary.mkdir()
            try:
                build(temporary)
                _make_durable(temporary)
                os.rename(temporary, final)
                _sync(folder)
            except BaseException:
                shutil.rmtree(temporary, ignore_errors=True)
                raise
            return load(final), False


def require_space(folder: Path, needed: int, what: str) -> None:
    """Refuse (E204) to begin writing `needed` bytes that will not fit."""
    free = shutil.disk_usage(folder).free
    if free < needed + _SMALLEST_RESERVE:
        raise LuminaError(
            "E204",
            f"{folder}: {what} needs about {needed / 2**20:,.0f} MiB, "
            f"{free / 2**20:,.0f} MiB are free",
            "free some space, or set LUMINA_CACHE to a folder on a larger disk",
        )


@contextlib.contextmanager
def _coded_errors(folder: Path) -> Iterator[None]:
    try:
        yield
    except OSError as error:
        if error.errno in (errno.ENOSPC, errno.EDQUOT):
            raise LuminaError(
                "E204",
                f"{folder}: the disk is full; what was half written is removed",
                "free some space, or set LUMINA_CACHE to a folder on a larger disk",
            ) from error
        if error.errno in (errno.EACCES, errno.EPERM, errno.EROFS):
            raise LuminaError(
                "E106",
                f"{error.filename or folder}: this user may not write here",
                "set LUMINA_CACHE to a folder that this user may write",
            ) from error
        if error.errno in NO_LOCKS:
            raise LuminaError(
                "E003",
                f"{folder}: its file system has no file locks, so two processes could "
                "build one thing at once",
                "set LUMINA_CACHE to a folder on a file system that has them",
            ) from error
        if error.errno in (errno.ENOTDIR, errno.ENOENT, errno.EEXIST):
            raise LuminaError(
                "E104",
                f"{error.filename or folder}: cannot be a cache: {error.strerror}",
                "set LUMINA_CACHE to a folder that can be made",
            ) from error
        raise


@contextlib.contextmanager
def _lock(path: Path, wait: bool = True) -> Iterator[bool]:
    """Hold an exclusive lock, which the system drops if this process dies."""
    with open(path, "a") as file:
        try:
            fcntl.flock(file, fcntl.LOCK_EX | (0 if wait else fcntl.LOCK_NB))
        except BlockingIOError:
            yield False
            return
        yield True


def _remove_stale(folder: Path, key: str) -> None:
    """Remove what killed processes left: temporaries whose lock is not held."""
    for path in folder.glob(".tmp-*-*"):
        owner = path.name[len(".tmp-") :].rpartition("-")[0]
        if owner == key:  # this process holds that lock
            shutil.rmtree(path, ignore_errors=True)
            continue
        with _lock(folder / f"{owner}.lock", wait=False) as held:
            if held:
                shutil.rmtree(path, ignore_errors=True)


def _make_durable(folder: Path) -> None:
    for path in sorted(folder.rglob("*"), reverse=True):
        _sync(path)
    _sync(folder)


def _sync(path: Path) -> None:
    handle = os.open(path, os.O_RDONLY)
    try:
        os.fsync(handle)
    finally:
        os.close(handle)
