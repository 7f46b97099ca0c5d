"""`lumina checkpoints compare`: how far the weights of two checkpoints lie apart."""

from __future__ import annotations

import argparse
import json

SUMMARY = "compare two checkpoints: weights, settings, losses"


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Declare the command's arguments."""
    parser.add_argument("first", help="a checkpoint, or a run (its newest)")
    parser.add_argument("second", help="another one")
    parser.add_argument(
        "--most",
        type=int,
        default=20,
        metavar="N",
        help="tensors that are listed, those that differ most first; default: 20",
    )
    parser.add_argument("--json", action="store_true", help="print JSON")


def run(args: argparse.Namespace) -> int:
    """Print the comparison."""
    from lumina.cli.text import table
    from lumina.config.provenance import show
    from lumina.state.inspection import compared, one_checkpoint

    first, second = one_checkpoint(args.first), one_checkpoint(args.second)
    found = compared(first, second)
    if args.json:
        print(json.dumps(found, indent=2))
        return 0
    print(f"steps {found['steps'][0]:,} and {found['steps'][1]:,}")
    for name, (old, new) in found["settings"].items():
        print(f"{name}: {show(old)} and {show(new)}")
    for name, where in found["only"].items():
        print(f"{name} is only in the {where}")
    changed = [one for one in found["tensors"] if one["largest"] != 0]
    print(f"{len(changed)} of {len(found['tensors'])} tensors differ")
    if changed:
        rows = [
            [one["name"], f"{one['relative']:.3%}", f"{one['largest']:.3e}"]
            for one in changed[: args.most]
        ]
        head = ("tensor", "change", "largest")
        print(table(head, rows, right="change largest"))
    if len(changed) > args.most:
        print(f"and {len(changed) - args.most} more (--most {len(changed)})")
    return 0
