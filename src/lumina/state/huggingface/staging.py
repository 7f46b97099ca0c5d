"""A folder that appears whole or not at all."""

from __future__ import annotations

import os
import shutil
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from lumina.durable import sync_folder, write_error
from lumina.errors import LuminaError


@contextmanager
def staged(target: Path) -> Iterator[Path]:
    """A folder beside `target` to write into; it becomes `target` if nothing fails.

    Raises:
        LuminaError: E002 when `target` holds anything; E104, E106 or E204 when the
            system refuses a write.
    """
    require_unused(target)
    partial = target.with_name(f".{target.name}.partial")
    try:
        target.parent.mkdir(parents=True, exist_ok=True)
        shutil.rmtree(partial, ignore_errors=True)
        partial.mkdir()
        yield partial
        if target.is_dir():
            target.rmdir()
        os.replace(partial, target)
        sync_folder(target.parent)
    except OSError as error:
        raise write_error(error, target) from error
    finally:
        shutil.rmtree(partial, ignore_errors=True)


def require_unused(folder: Path) -> None:
    """Refuse (E002) a path that holds anything."""
    if folder.is_dir() and not any(folder.iterdir()):
        return
    if folder.exists() or folder.is_symlink():
        raise LuminaError(
            "E002",
            f"{folder} exists and is not an empty folder",
            "name a new folder; nothing is overwritten",
        )
