"""`lumina runs remove`: delete runs, after a question."""

from __future__ import annotations

import argparse
import contextlib
import os
import shutil
import sys
from collections.abc import Iterator
from pathlib import Path

from lumina.cli.run_files import one_run
from lumina.cli.run_index import opened
from lumina.durable import write_error
from lumina.errors import LuminaError
from lumina.quantities import byte_size
from lumina.state.liveness import LOCK, held_alone, state_of

SUMMARY = "delete runs; asks first, or needs --yes"


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Declare the command's arguments."""
    parser.add_argument("runs", nargs="+", metavar="RUN", help="runs, or their names")
    parser.add_argument("--yes", action="store_true", help="delete without asking")


def run(args: argparse.Namespace) -> int:
    """Say what goes, ask, and delete it."""
    paths = [_removable(named) for named in dict.fromkeys(args.runs)]
    for path in paths:
        size = byte_size(sum(file.lstat().st_size for file in _files(path)))
        kept = sum(1 for _ in (path / "checkpoints").glob("step-*"))
        print(f"{path}: {kept} checkpoints, {size}")
    if not args.yes and not _agreed(len(paths)):
        print("nothing is deleted")
        return 1
    with opened() as index:
        for path in paths:
            _remove(path)
            index.forget(path)
            print(f"{path} is deleted")
    return 0


def _removable(named: str) -> Path:
    """The run of that name.

    Raises:
        LuminaError: E304 where there is none; E002 for one that is being trained, that
            is a link, that holds the current folder, or that may be no run.
    """
    path = one_run(named)
    if path.is_symlink():
        raise LuminaError(
            "E002",
            f"{path} is a link to {os.readlink(path)}",
            "name the run that it leads to, or delete the link itself",
        )
    if state_of(path) in ("running", "restarting"):
        raise _trained(path)
    if not (path / "config.yaml").is_file() or not (path / "status.json").is_file():
        raise LuminaError(
            "E002",
            f"{path} has no config.yaml and status.json: it may be no run of Lumina's",
            "delete it by hand if you are sure",
        )
    inside = Path.cwd().resolve()
    if path.resolve() in (inside, *inside.parents):
        raise LuminaError("E002", f"{path} holds the current folder", "leave it first")
    return path


def _trained(path: Path) -> LuminaError:
    return LuminaError(
        "E002", f"{path} is being trained", "stop it first, or wait for its end"
    )


def _files(path: Path) -> Iterator[Path]:
    """Every file and link below a folder; links are not followed."""
    for folder, _, names in os.walk(path, followlinks=False):
        yield from (Path(folder, name) for name in names)


def _agreed(number: int) -> bool:
    if not sys.stdin.isatty():
        raise LuminaError(
            "E005", "no terminal to ask on", "add --yes to delete without a question"
        )
    what = "this run" if number == 1 else f"these {number} runs"
    return input(f"delete {what} for good? [y/N] ").strip().lower() in ("y", "yes")


def _remove(path: Path) -> None:
    """Delete a folder; a link inside it goes, and what it leads to stays."""
    # Renamed first: killed half-way, it must not look like a run.
    doomed = path.with_name(f".{path.name}.removed.tmp")
    try:
        with _held(path):
            shutil.rmtree(doomed, ignore_errors=True)
            os.rename(path, doomed)
            shutil.rmtree(doomed)
    except OSError as error:
        raise write_error(error, path) from error


@contextlib.contextmanager
def _held(path: Path) -> Iterator[None]:
    """No training goes on with the run; one may have begun since it was asked for."""
    lock = os.open(path / LOCK, os.O_RDWR | os.O_CREAT, 0o644)
    try:
        if not held_alone(lock):
            raise _trained(path)
        yield
    finally:
        os.close(lock)
