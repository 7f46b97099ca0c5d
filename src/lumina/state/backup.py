"""A second place for checkpoints, to go on from where the first one is lost."""

from __future__ import annotations

import contextlib
import os
import shutil
import time
from collections.abc import Callable
from pathlib import Path
from typing import BinaryIO

from lumina.durable import changing, free_bytes, sync_folder
from lumina.errors import LuminaError
from lumina.state.archives import archives
from lumina.state.liveness import is_locked
from lumina.state.reader import open_checkpoint, step_folders
from lumina.state.retention import remove_checkpoint, remove_leftovers, write_pointer

_EVENTS = "events.jsonl"

BESIDE = (_EVENTS, "config.yaml", "plan.json", "trackers.json")
"""Files of a run directory that a backup holds beside the newest checkpoint and the
rows."""


class Backup:
    """Copies of a run's newest checkpoint, and of what a resume needs beside it.

    The folder is a run directory: `lumina train --resume FOLDER` goes on from it. It
    holds one checkpoint, the newest that was copied.

    Args:
        run: the run directory.
        folder: the second place for all runs; this one's is below it, by its name. A
            copy of another run of that name stays, and this one's is NAME-2.
        hours: between two copies; 0: every checkpoint is copied.
        clock: gives Unix seconds.
    """

    def __init__(
        self,
        run: Path,
        folder: Path,
        hours: float,
        clock: Callable[[], float] = time.time,
    ) -> None:
        self.run = run
        self._place = folder
        self.folder = folder / run.resolve().name
        self._taken = False
        self._seconds = 3600 * hours
        self._clock = clock

    @property
    def due(self) -> bool:
        """Whether the last copy is old enough."""
        try:
            self._take_folder()
            latest = self.folder / "checkpoints" / "LATEST"
            age = self._clock() - latest.stat().st_mtime
        except OSError:
            return True
        # A file server's clock may be ahead of this one: its copies seem to come from
        # the future, and would otherwise be new enough until then.
        return not 0 <= age < self._seconds

    def copy_if_due(self, checkpoint: Path, emit: Callable[..., None]) -> None:
        """Copy a checkpoint where that is due; a failure is an event, and no more.

        Args:
            checkpoint: a verified folder.
            emit: called like `EventLog.emit`.
        """
        if not self.due:
            return
        name, step = checkpoint.name, int(checkpoint.name.rpartition("-")[2])
        try:
            self.copy(checkpoint)
        except (OSError, LuminaError) as error:
            said = error.message if isinstance(error, LuminaError) else str(error)
            text = (
                f"{name} was not copied to {self.folder}: {said}; the run goes on, and "
                "the next checkpoint is tried"
            )
            emit("backup_failed", "warning", "E204", text, step, checkpoint=name)
        else:
            text = f"{name} is copied to {self.folder}"
            emit("backup_made", "info", None, text, step, checkpoint=name)

    def copy(self, checkpoint: Path) -> None:
        """Copy a checkpoint, verify the copy, and only then release the one before.

        Raises:
            LuminaError: E204 where it does not fit; E303 for a copy that differs; E002
                where a training goes on in the copy.
            OSError: where the place cannot be written.
        """
        self._take_folder()
        if is_locked(self.folder):
            raise LuminaError(
                "E002",
                f"a training goes on in {self.folder}, which would lose its own",
                "stop one of the two, or give this one another --backup-dir",
            )
        target = self.folder / "checkpoints"
        target.mkdir(parents=True, exist_ok=True)
        remove_leftovers(target)  # of a copy that was cut off
        needed = sum(file.stat().st_size for file in checkpoint.iterdir())
        if needed > (free := free_bytes(target)):
            raise LuminaError(
                "E204",
                f"a copy takes {needed:,} bytes and {target} has {free:,}",
                "free some space there",
            )
        final = target / checkpoint.name
        unfinished = target / f".tmp-{checkpoint.name}"
        shutil.copytree(checkpoint, unfinished)
        for file in unfinished.iterdir():
            with open(file, "rb") as held:
                os.fsync(held.fileno())
        open_checkpoint(unfinished).close()
        # A resume puts it back where this is cut off between the two names.
        aside = target / f".replaced-{final.name}"
        if final.exists():
            os.rename(final, aside)
        os.rename(unfinished, final)
        sync_folder(target)
        shutil.rmtree(aside, ignore_errors=True)
        self._copy_beside()
        write_pointer(target, "LATEST", final)
        for _, path in step_folders(target):
            if path != final:
                remove_checkpoint(path)

    def _take_folder(self) -> None:
        """Choose the folder, once: one that nobody has, or that holds this run's copy.

        Two runs of one name would else delete each other's copy.
        """
        name, number = self.run.resolve().name, 1
        while not self._taken:
            self.folder = self._place / (name if number == 1 else f"{name}-{number}")
            self.folder.mkdir(parents=True, exist_ok=True)
            with changing(self.folder / _EVENTS):
                self._taken = self._is_of_this_run()
                if self._taken and (self.run / _EVENTS).exists():
                    self._put(self.run / _EVENTS, _EVENTS)  # by which it is known
            number += 1

    def _is_of_this_run(self) -> bool:
        """Whether the folder holds this run's copy or none: by the first event."""
        if self.folder.resolve() == self.run.resolve():
            return False  # a run that goes on in its own copy needs another
        there, own = (_first_line(one / _EVENTS) for one in (self.folder, self.run))
        if there is None or own is None:
            return own is None or not (self.folder / "checkpoints" / "LATEST").exists()
        return there == own

    def _copy_beside(self) -> None:
        rows = self.run / "metrics.jsonl"
        if rows.exists():
            # Opened first: where its rows are archived meanwhile, it keeps them.
            with open(rows, "rb") as held:
                # Archives before it: without them its rows would seem to be all.
                for one in archives(rows, held.readline()):
                    self._put(one, one.name)
                held.seek(0)
                self._put(held, rows.name)
        for name in BESIDE:
            if (self.run / name).exists():
                self._put(self.run / name, name)
        tokenizer = self.run / "tokenizer"
        if tokenizer.is_dir() and not (self.folder / "tokenizer").exists():
            unfinished = self.folder / ".tokenizer.tmp"
            shutil.rmtree(unfinished, ignore_errors=True)
            shutil.copytree(tokenizer, unfinished)
            os.rename(unfinished, self.folder / "tokenizer")

    def _put(self, source: Path | BinaryIO, name: str) -> None:
        """Copy a file, durably and as a whole."""
        unfinished = self.folder / f".{name}.tmp"
        with contextlib.ExitStack() as opened:
            if isinstance(source, Path):
                source = opened.enter_context(open(source, "rb"))
            with open(unfinished, "wb") as file:
                shutil.copyfileobj(source, file)
                file.flush()
                os.fsync(file.fileno())
        os.replace(unfinished, self.folder / name)


def _first_line(path: Path) -> bytes | None:
    try:
        with open(path, "rb") as file:
            return file.readline()
    except FileNotFoundError:
        return None
