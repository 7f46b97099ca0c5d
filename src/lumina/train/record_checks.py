"""Whether the files beside the checkpoints of a run are whole, before it goes on."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from pathlib import Path
from typing import Any

from lumina.config.files import read_layer
from lumina.config.sections import LEAVES
from lumina.errors import LuminaError
from lumina.state.json_lines import iterate_json_lines
from lumina.state.reader import open_checkpoint, read_pointer, step_folders
from lumina.state.run_directory import RunDirectory

_RESTORE = "restore it from a copy, or start another run with --init-from "


def require_settings(run: Path) -> None:
    """Refuse a run that has checkpoints or rows and no settings.

    Without the check it would begin afresh over what it left.

    Raises:
        LuminaError: E303.
    """
    directory = RunDirectory(run)
    if directory.config.is_file():
        return
    rows = directory.metrics.is_file() and directory.metrics.stat().st_size
    if rows or step_folders(directory.checkpoints):
        raise LuminaError(
            "E303",
            f"{run} has trained steps, and {directory.config.name}, which says with "
            "which settings, is not there",
            f"{_RESTORE}{run}",
        )


def require_whole_settings(run: Path, trained_with: Mapping[str, Any]) -> None:
    """Refuse settings that were cut: what is not in the file would be a default.

    Args:
        run: a run directory.
        trained_with: the settings in its checkpoint, flat.

    Raises:
        LuminaError: E303, naming options that are not in the file.
    """
    file = RunDirectory(run).config
    there = read_layer(file).leaves
    lost = [leaf for leaf in trained_with if leaf in LEAVES and leaf not in there]
    if lost:
        some = ", ".join(lost[:3]) + (" and others" if len(lost) > 3 else "")
        raise LuminaError(
            "E303",
            f"{file} is not whole: it lacks {some}, which the run was trained with",
            f"{_RESTORE}{run}",
        )


def require_settings_of_latest(run: Path) -> None:
    """The same, with the settings in the checkpoint that LATEST names, if it is there.

    Raises:
        LuminaError: E303 for settings that are not whole, or a damaged checkpoint.
    """
    latest = read_pointer(RunDirectory(run).checkpoints, "LATEST")
    if latest is not None:
        with open_checkpoint(latest, verify="size") as reader:
            require_whole_settings(run, reader.meta.config)


def require_records(run: Path) -> None:
    """Refuse rows or events that cannot be read, before steps are trained beside them.

    Raises:
        LuminaError: E101, naming the line.
    """
    directory = RunDirectory(run)
    for file in (directory.metrics, directory.events):
        if file.exists():
            for _ in iterate_json_lines(file):
                pass


def missing_rows(rows: Iterable[Mapping[str, Any]], step: int) -> list[tuple[int, int]]:
    """Steps without a row, up to the one that a run goes on from.

    Args:
        rows: of metrics.jsonl, in order.
        step: completed steps.

    Returns:
        (first, last) of each gap.
    """
    gaps, wanted = [], 1
    for row in [*rows, {"step": step + 1}]:
        if row["step"] > wanted:
            gaps.append((wanted, row["step"] - 1))
        wanted = row["step"] + 1
    return gaps


def gaps_in_words(gaps: Iterable[tuple[int, int]]) -> str:
    """The gaps as a person reads them."""
    return ", ".join(f"{a:,}" if a == b else f"{a:,} to {b:,}" for a, b in gaps)
