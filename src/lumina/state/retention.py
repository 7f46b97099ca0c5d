"""Which checkpoints stay, which go, and what a killed writer left behind."""

from __future__ import annotations

import os
import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Literal

from lumina.durable import sync_folder, write_file
from lumina.errors import LuminaError
from lumina.state.manifest import read_manifest
from lumina.state.reader import read_pointer, step_folders, step_name


def write_pointer(checkpoints: Path, name: str, target: Path) -> None:
    """Make LATEST or BEST name `target`, durably and in one go."""
    write_file(checkpoints / name, f"{target.name}\n".encode())


def point_at_best(checkpoints: Path, step: int | None) -> None:
    """Let BEST name what was the best then; where that is gone, nothing."""
    then = dict(step_folders(checkpoints)).get(-1 if step is None else step)
    if then is not None:
        write_pointer(checkpoints, "BEST", then)
    else:
        (checkpoints / "BEST").unlink(missing_ok=True)


_REMOVED = ".tmp-removed-"
"""Begins the name of a checkpoint that is being deleted."""

GOOD = "good"
"""The kind of a checkpoint that many steps without an alarm have followed."""

Pruning = Literal["newest", "spread"]
"""Which regular checkpoints stay: the newest, or some of all ages."""


def superseded(checkpoints: Path, keep: int, pruning: Pruning = "newest") -> list[Path]:
    """The checkpoints that newer ones take the place of; nothing is deleted.

    Kept are: what LATEST and BEST name, `keep` regular ones, the newest emergency one,
    the newest that is known to be good, the ends of phases, and any whose manifest
    cannot be read (nothing damaged is counted as kept, nor destroyed). Without LATEST,
    all stay.
    """
    latest = read_pointer(checkpoints, "LATEST")
    if latest is None:
        return []
    kinds: dict[Path, tuple[str, ...]] = {}
    for _, path in step_folders(checkpoints):
        try:
            kinds[path] = read_manifest(path).kinds
        except LuminaError:
            continue
    regular = [path for path, held in kinds.items() if "regular" in held]
    emergency = [path for path, held in kinds.items() if "emergency" in held]
    good = [path for path, held in kinds.items() if GOOD in held]
    stay = {
        latest,
        read_pointer(checkpoints, "BEST"),
        *KEPT[pruning](regular, keep),
        *emergency[-1:],
        *good[-1:],
        *(path for path, held in kinds.items() if "phase" in held),
    }
    return [path for path in (*kinds, *_overtaken(checkpoints)) if path not in stay]


def _newest(regular: list[Path], keep: int) -> list[Path]:
    return regular[max(len(regular) - keep, 0) :]


def _spread(regular: list[Path], keep: int) -> list[Path]:
    """Some of all ages: the newest, the oldest, and others between them.

    One at a time the checkpoint goes that is missed least: where the age of its older
    neighbour is the smallest multiple of that of its newer one. What stays so gets
    thinner with age, and going back is possible to about any age.
    """
    kept = list(regular)
    while len(kept) > max(keep, 0):
        if len(kept) <= 2:
            kept.pop(0)
            continue
        steps = [_step_of(path) for path in kept]
        # The newest one is of age 1 here, so that it has a multiple.
        ages = [steps[-1] - step + 1 for step in steps]
        gaps = [ages[i - 1] / ages[i + 1] for i in range(1, len(kept) - 1)]
        kept.pop(1 + gaps.index(min(gaps)))
    return kept


KEPT: dict[str, Callable[[list[Path], int], list[Path]]] = {
    "newest": _newest,
    "spread": _spread,
}
"""Way of pruning -> which of the regular checkpoints, the oldest first, stay."""


def prune(
    checkpoints: Path,
    keep: int,
    pruning: Pruning = "newest",
    on_failure: Callable[[Path, OSError], None] | None = None,
) -> list[Path]:
    """Delete the superseded checkpoints; LATEST must name a verified one.

    Args:
        checkpoints: the folder of all.
        keep: regular ones that stay.
        pruning: which these are.
        on_failure: called with what the system does not delete, as a network file
            system does not while somebody reads it; the next call tries again. None:
            that is an error.

    Returns:
        The folders that are gone.

    Raises:
        OSError: where one cannot be deleted, and nobody is to be told.
    """
    gone = []
    half = sorted(checkpoints.glob(f"{_REMOVED}*"))
    for path in (*superseded(checkpoints, keep, pruning), *half):
        try:
            if path in half:
                shutil.rmtree(path)
            else:
                remove_checkpoint(path)
                gone.append(path)
        except OSError as error:
            if on_failure is None:
                raise
            on_failure(path, error)
    return gone


def set_aside_after(checkpoints: Path, step: int) -> list[Path]:
    """Rename checkpoints past `step`, which a resume from there leaves behind.

    They no longer count for resuming, and go once the run has passed their step. BEST
    follows its folder; LATEST names the step resumed from.

    Returns:
        Their new names.
    """
    best = read_pointer(checkpoints, "BEST")
    moved = []
    for found, path in step_folders(checkpoints):
        if found <= step:
            continue
        number = 1
        while (target := path.with_name(f"abandoned-{number}-{path.name}")).exists():
            number += 1
        os.rename(path, target)
        if path == best:
            write_pointer(checkpoints, "BEST", target)
        moved.append(target)
    if moved:
        sync_folder(checkpoints)
        origin = checkpoints / step_name(step)
        if origin.is_dir():
            write_pointer(checkpoints, "LATEST", origin)
    return moved


def remove_leftovers(checkpoints: Path) -> list[str]:
    """Clear what a killed process left half done. Only for the holder of the lock.

    Returns:
        The names that are gone or were put back.
    """
    if not checkpoints.is_dir():
        return []
    cleared = []
    for path in sorted(checkpoints.iterdir()):
        if path.name.startswith(".replaced-"):
            # Killed between the two renames: the old one is the only one of its step.
            original = path.with_name(path.name.removeprefix(".replaced-"))
            if original.exists():
                shutil.rmtree(path)
            else:
                os.rename(path, original)
        elif path.name.startswith(_REMOVED):
            # Somebody may still read it; nothing is ever written under this name.
            shutil.rmtree(path, ignore_errors=True)
        elif path.name.startswith(".tmp-"):
            shutil.rmtree(path)
        elif path.name.startswith(".") and path.name.endswith(".tmp"):
            path.unlink()
        else:
            continue
        cleared.append(path.name)
    return cleared


def _overtaken(checkpoints: Path) -> list[Path]:
    latest = read_pointer(checkpoints, "LATEST")
    reached = _step_of(latest) if latest else -1
    return [
        path
        for path in sorted(checkpoints.glob("abandoned-*-step-*"))
        if _step_of(path) <= reached
    ]


def _step_of(path: Path) -> int:
    return int(path.name.rpartition("-")[2])


def remove_checkpoint(path: Path) -> None:
    """Delete a checkpoint, which no moment shows in part.

    It is renamed first: to whoever reads it meanwhile, or finds it after a kill, half
    of it would be a damaged checkpoint.
    """
    doomed = path.with_name(f"{_REMOVED}{path.name}")
    shutil.rmtree(doomed, ignore_errors=True)
    os.rename(path, doomed)
    shutil.rmtree(doomed)
