"""`lumina checkpoints prune`: delete those that are not needed any more."""

from __future__ import annotations

import argparse
from typing import Literal

SUMMARY = "delete older checkpoints of a run; says which, and needs --yes"


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Declare the command's arguments."""
    parser.add_argument("run", help="a run directory that no process trains")
    parser.add_argument(
        "--keep",
        type=int,
        default=3,
        metavar="N",
        help="regular checkpoints that stay beside the newest and the best; default: 3",
    )
    parser.add_argument(
        "--spread",
        action="store_true",
        help="keep some of all ages in place of the newest",
    )
    parser.add_argument(
        "--yes", action="store_true", help="delete; without it they are only listed"
    )


def run(args: argparse.Namespace) -> int:
    """List what would go, or delete it."""
    from lumina.errors import LuminaError
    from lumina.quantities import byte_size
    from lumina.state.inspection import pruned

    if args.keep < 0:
        raise LuminaError("E005", f"--keep cannot be {args.keep}", "keep 0 or more")
    pruning: Literal["newest", "spread"] = "spread" if args.spread else "newest"
    gone, size = pruned(args.run, args.keep, delete=args.yes, pruning=pruning)
    if not gone:
        print("nothing to delete")
        return 0
    word = "deleted" if args.yes else "would be deleted"
    for name in gone:
        print(f"{name} {word}")
    print(f"{byte_size(size)} {'freed' if args.yes else 'would be freed; add --yes'}")
    return 0
