"""`lumina checkpoints rollback`: take a run back to an earlier checkpoint."""

from __future__ import annotations

import argparse

SUMMARY = "take a run back to an earlier checkpoint; needs --yes, and loses nothing"


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Declare the command's arguments."""
    parser.add_argument("run", help="a run directory that no process trains")
    parser.add_argument(
        "to",
        metavar="STEP",
        help="a step with a checkpoint, a checkpoint's name, best, or previous",
    )
    parser.add_argument(
        "--yes", action="store_true", help="do it; without it, only say what it undoes"
    )


def run(args: argparse.Namespace) -> int:
    """Say what is undone, or undo it."""
    from lumina.errors import shell_path
    from lumina.state.rollback import planned, roll_back

    undoing = planned(args.run, args.to)
    if not undoing.rows and not undoing.checkpoints:
        print(f"{args.run} has nothing after step {undoing.step:,}")
        return 0
    what = (
        f"steps {undoing.step + 1:,} to {undoing.last:,} with "
        f"{len(undoing.checkpoints)} checkpoints"
    )
    if not args.yes:
        print(f"{what} would be set aside; add --yes")
        return 0
    kept = roll_back(args.run, args.to)
    print(f"{what} are now in {kept}")
    print(
        f"go on from step {undoing.step:,}: lumina train --resume "
        f"{shell_path(args.run)}"
    )
    return 0
