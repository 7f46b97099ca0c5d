"""A second place for checkpoints, to go on from where the first one is lost."""

from __future__ import annotations

import os
import shutil
import time
from collections.abc import Callable
from pathlib import Path

from lumina.durable import free_bytes, sync_folder
from lumina.errors import LuminaError
from lumina.state.archives import archives
from lumina.state.reader import open_checkpoint, step_folders
from lumina.state.retention import write_pointer

BESIDE = ("config.yaml", "plan.json", "metrics.jsonl", "events.jsonl", "trackers.json")
"""Files of a run directory that a backup holds beside the newest checkpoint."""


class Backup:
    """Copies of a run's newest checkpoint, and of what a resume needs beside it.

    The folder is a run directory: `lumina train --resume FOLDER` goes on from it. It
    holds one checkpoint, the newest that was copied.

    Args:
        run: the run directory.
        folder: the second place for all runs; this one's is below it, by its name.
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
        self.folder = folder / run.resolve().name
        self._seconds = 3600 * hours
        self._clock = clock

    @property
    def due(self) -> bool:
        """Whether the last copy is old enough."""
        latest = self.folder / "checkpoints" / "LATEST"
        try:
            age = self._clock() - latest.stat().st_mtime
        except OSError:
            return True
        return age >= self._seconds

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
            LuminaError: E204 where it does not fit; E303 for a copy that differs.
            OSError: where the place cannot be written.
        """
        target = self.folder / "checkpoints"
        target.mkdir(parents=True, exist_ok=True)
        needed = sum(file.stat().st_size for file in checkpoint.iterdir())
        if needed > (free := free_bytes(target)):
            raise LuminaError(
                "E204",
                f"a copy takes {needed:,} bytes and {target} has {free:,}",
                "free some space there",
            )
        final = target / checkpoint.name
        unfinished = target / f".tmp-{checkpoint.name}"
        shutil.rmtree(unfinished, ignore_errors=True)
        shutil.copytree(checkpoint, unfinished)
        for file in unfinished.iterdir():
            with open(file, "rb") as held:
                os.fsync(held.fileno())
        open_checkpoint(unfinished).close()
        if final.exists():
            shutil.rmtree(final)
        os.rename(unfinished, final)
        sync_folder(target)
        self._copy_beside()
        write_pointer(target, "LATEST", final)
        for _, path in step_folders(target):
            if path != final:
                shutil.rmtree(path)

    def _copy_beside(self) -> None:
        rows = self.run / "metrics.jsonl"
        # Archives first: without them the rows that follow would seem to be all.
        for name in (*(one.name for one in archives(rows)), *BESIDE):
            source = self.run / name
            if source.exists():
                unfinished = self.folder / f".{name}.tmp"
                shutil.copyfile(source, unfinished)
                os.replace(unfinished, self.folder / name)
        tokenizer = self.run / "tokenizer"
        if tokenizer.is_dir() and not (self.folder / "tokenizer").exists():
            unfinished = self.folder / ".tokenizer.tmp"
            shutil.rmtree(unfinished, ignore_errors=True)
            shutil.copytree(tokenizer, unfinished)
            os.rename(unfinished, self.folder / "tokenizer")
