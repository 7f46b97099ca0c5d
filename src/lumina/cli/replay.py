"""`lumina replay`: the decisions of a run, made again, or the run without one."""

from __future__ import annotations

import argparse
import json
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from lumina.state.run_directory import RunDirectory

_SHOWN = 20


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Declare the command's arguments."""
    parser.add_argument("run", help="a run, or its name below ./runs")
    parser.add_argument(
        "--plugins", nargs="+", default=[], metavar="FILE",
        help="plug-ins with the rules, checks and actions that the run had",
    )  # fmt: skip
    parser.add_argument(
        "--without", type=int, metavar="DECISION",
        help="train again from the last checkpoint before this decision, and measure "
        "what the run would have been without it",
    )  # fmt: skip
    parser.add_argument(
        "--steps", type=int, metavar="N",
        help="with --without: steps after the decision; default: two cooldowns",
    )  # fmt: skip
    parser.add_argument("--json", action="store_true", help="print JSON")


def run(args: argparse.Namespace) -> int:
    """Compare; the exit code is 1 where they differ."""
    from lumina.cli.run_files import one_run
    from lumina.errors import LuminaError
    from lumina.model.registry import load_plugins
    from lumina.quantities import counted
    from lumina.state.run_directory import RunDirectory
    from lumina.train.replaying.replay import replay

    path = one_run(args.run)
    load_plugins(tuple(args.plugins))
    if args.without is not None:
        return _without(RunDirectory(path), args)
    if args.steps is not None:
        raise LuminaError(
            "E002", "--steps goes with --without", "name a decision: --without 1"
        )
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


def _without(run: RunDirectory, args: argparse.Namespace) -> int:
    """Measure what one decision was worth."""
    from lumina.errors import LuminaError
    from lumina.train.replaying.without import without

    if args.steps is not None and args.steps < 1:
        raise LuminaError("E005", f"--steps is {args.steps}", "name 1 or more")
    found = without(run, args.without, args.steps)
    if args.json:
        print(json.dumps(vars(found), indent=1))
        return 0
    print(f"{run.path}: {found.text}")
    if found.repeated is not None:
        same = "the same losses, to the bit"
        if found.repeated > 0:
            same = f"losses that differ by {found.repeated:.2g} of their size at most"
        print(
            f"from the checkpoint of step {found.checkpoint:,} to the decision both "
            f"have {same}"
        )
    print(f"its rows are in {run.path / found.rows}")
    return 0
