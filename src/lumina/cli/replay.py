"""`lumina replay`: the decisions of a run, made again and compared with its record."""

from __future__ import annotations

import argparse
import json

_SHOWN = 20


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Declare the command's arguments."""
    parser.add_argument("run", help="a run, or its name below ./runs")
    parser.add_argument(
        "--plugins", nargs="+", default=[], metavar="FILE",
        help="plug-ins with the rules, checks and actions that the run had",
    )  # fmt: skip
    parser.add_argument("--json", action="store_true", help="print JSON")


def run(args: argparse.Namespace) -> int:
    """Compare; the exit code is 1 where they differ."""
    from lumina.cli.run_files import one_run
    from lumina.model.registry import load_plugins
    from lumina.quantities import counted
    from lumina.state.run_directory import RunDirectory
    from lumina.train.replaying.replay import replay

    path = one_run(args.run)
    load_plugins(tuple(args.plugins))
    found = replay(RunDirectory(path))
    if args.json:
        values = {
            "same": not found.differences,
            "recorded": [vars(one) for one in found.recorded],
            "again": [vars(one) for one in found.again],
            "differences": found.differences,
            "beyond": [one.number for one in found.beyond],
        }
        print(json.dumps(values, indent=1, default=str))
        return 1 if found.differences else 0
    judged = sum(bool(one.verdict) for one in found.again)
    made = counted(len(found.again), "decision")
    print(f"{path}: {made} made again, {judged} with an outcome")
    for one in found.beyond:
        print(f"  decision {one.number}: step {one.step:,} has no row")
    if not found.differences:
        print("they are those of the record")
        return 0
    for text in found.differences[:_SHOWN]:
        print(f"  {text}")
    more = len(found.differences) - _SHOWN
    if more > 0:
        print(f"  and {more} more differences")
    print("they are not those of the record")
    return 1
