"""`lumina checkpoints verify`: read every byte, and say what is wrong."""

from __future__ import annotations

import argparse
import json

SUMMARY = "check every byte of checkpoints, and that every number is finite"


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Declare the command's arguments."""
    parser.add_argument(
        "paths", nargs="+", metavar="PATH", help="runs, or checkpoints of runs"
    )
    parser.add_argument("--json", action="store_true", help="print JSON")


def run(args: argparse.Namespace) -> int:
    """Print a line for each; 1 where one of them is not good."""
    from lumina.quantities import byte_size, count
    from lumina.state.inspection import checkpoints_at, examined

    found = []
    for path in checkpoints_at(args.paths):
        one = examined(path)
        found.append(one)
        if args.json:
            continue
        if one["problem"] is not None:
            print(f"{path}: {one['problem']}", flush=True)
        else:
            print(
                f"{path}: good; {count(one['parameters'])} parameters, optimizer "
                f"{', '.join(one['slots']) or 'none'}, {byte_size(one['bytes'])}, "
                f"format {one['format']}",
                flush=True,
            )
    if args.json:
        print(json.dumps(found, indent=2))
    return int(any(one["problem"] is not None for one in found))
