"""Taking a run back to an earlier checkpoint by hand, with nothing lost."""

from __future__ import annotations

import os
import shutil
from dataclasses import dataclass
from pathlib import Path

from lumina.durable import sync_folder, write_error
from lumina.errors import LuminaError
from lumina.state.events import EventLog
from lumina.state.metrics import MetricsLog, read_metrics
from lumina.state.reader import open_checkpoint, read_pointer, step_folders
from lumina.state.retention import point_at_best, write_pointer
from lumina.state.run_directory import RunDirectory

UNDONE = "undone"
"""The folder of a run that keeps what was undone, a numbered folder for each time."""

_COPIED = ("edits.json", "status.json", "plan.json", "config.yaml")
_MOVED = ("report.html",)


@dataclass(frozen=True)
class Undoing:
    """What a rollback takes back.

    Attributes:
        target: the checkpoint that the run goes on from.
        step: its step.
        checkpoints: the later ones, which are moved.
        rows: rows of metrics past the step, which are moved.
        last: the last step that was trained.
    """

    target: Path
    step: int
    checkpoints: tuple[Path, ...]
    rows: int
    last: int


def planned(run: str | os.PathLike[str], to: str) -> Undoing:
    """What a rollback would take back; nothing is changed.

    Args:
        run: a run directory.
        to: a step, the name of a checkpoint, `best`, or `previous`, the last but one.

    Raises:
        LuminaError: E104 for a folder that is no run; E304 where there is no such
            checkpoint.
    """
    directory = RunDirectory(run)
    if not directory.is_run:
        raise LuminaError("E104", f"{run} is no run directory", "check the path")
    folders = dict(step_folders(directory.checkpoints))
    step = _step_meant(directory.checkpoints, folders, to)
    if step is None or step not in folders:
        there = ", ".join(str(found) for found in folders) or "none"
        raise LuminaError(
            "E304",
            f"{run} has no checkpoint {to}",
            f"name one of the steps {there}; `lumina checkpoints list` shows them",
        )
    rows = read_metrics(run) if directory.metrics.exists() else []
    later = [row["step"] for row in rows if row["step"] > step]
    return Undoing(
        folders[step],
        step,
        tuple(path for found, path in folders.items() if found > step),
        len(later),
        max(later, default=step),
    )


def roll_back(run: str | os.PathLike[str], to: str) -> Path | None:
    """Take a run back: what came after the checkpoint is moved aside.

    The run then goes on from there as if it had been stopped there. A process that is
    killed in between leaves a run that goes on from the checkpoint all the same.

    Args:
        run: a run directory that no process trains.
        to: as for `planned`.

    Returns:
        The folder below the run that keeps what was undone; None where nothing was.

    Raises:
        LuminaError: as `planned`; E303 for a damaged checkpoint; E002 for a run that
            is being trained.
    """
    directory = RunDirectory(run)
    with directory.acquire(resume=True):
        undoing = planned(run, to)
        with open_checkpoint(undoing.target) as reader:
            best = reader.meta.extra.get("best_step")
        try:
            write_pointer(directory.checkpoints, "LATEST", undoing.target)
            if not undoing.rows and not undoing.checkpoints:
                return None
            return _set_aside(directory, undoing, best)
        except OSError as error:
            raise write_error(error, directory.path) from error


def _set_aside(directory: RunDirectory, undoing: Undoing, best: int | None) -> Path:
    kept = undone_folder(directory.path)
    for name in _COPIED:
        if (directory.path / name).is_file():
            shutil.copy2(directory.path / name, kept / name)
    for name in _MOVED:
        if (directory.path / name).is_file():
            os.rename(directory.path / name, kept / name)
    if undoing.rows:
        log = MetricsLog(directory.metrics)
        discarded = log.truncate_after(undoing.step)
        log.close()
        if discarded is not None:
            os.rename(discarded, kept / directory.metrics.name)
    point_at_best(directory.checkpoints, best)
    for path in undoing.checkpoints:
        (kept / "checkpoints").mkdir(exist_ok=True)
        os.rename(path, kept / "checkpoints" / path.name)
    sync_folder(directory.checkpoints)
    events = EventLog(directory.events)
    events.emit(
        "rolled_back",
        "info",
        None,
        f"taken back by hand from step {undoing.last:,} to step {undoing.step:,}; what "
        f"came after it is in {UNDONE}/{kept.name}",
        step=undoing.step,
    )
    events.close()
    directory.mark("interrupted", undoing.step, reason="rolled back by hand")
    return kept


def _step_meant(checkpoints: Path, folders: dict[int, Path], to: str) -> int | None:
    if to == "best":
        best = read_pointer(checkpoints, "BEST")
        return next((step for step, path in folders.items() if path == best), None)
    if to == "previous":
        return sorted(folders)[-2] if len(folders) > 1 else None
    text = to.removeprefix("step-")
    return int(text) if text.isdecimal() else None


def undone_folder(run: Path) -> Path:
    """A new folder below a run for what is taken back."""
    base = run / UNDONE
    base.mkdir(exist_ok=True)
    number = 1
    while True:
        try:
            (base / str(number)).mkdir()
            return base / str(number)
        except FileExistsError:
            number += 1
