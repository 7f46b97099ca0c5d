"""`lumina bench compare`: is one run, or one measurement, worse than another?"""

from __future__ import annotations

import argparse
import json
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from lumina.measure.bench.comparison import Compared

SUMMARY = "is a run slower, worse or larger than another? Exit code 1 if it is"


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Declare the command's arguments."""
    parser.add_argument(
        "first", help="a run, its metrics.jsonl, or a file of `lumina bench decode`"
    )
    parser.add_argument("second", help="another one, which may be worse")
    for name, default, text in (
        ("time", 0.05, "share by which a step may take longer"),
        ("loss", 0.02, "difference by which the loss may be higher"),
        ("memory", 0.05, "share by which the memory may be more"),
    ):
        parser.add_argument(
            f"--{name}-margin",
            type=float,
            default=default,
            metavar="X",
            help=f"{text} (default {default:g})",
        )
    parser.add_argument(
        "--skip",
        type=int,
        default=5,
        metavar="N",
        help="first steps of both runs that do not count (default 5)",
    )
    parser.add_argument(
        "--strict",
        action="store_true",
        help="exit code 1 also where the margin is within the interval",
    )
    parser.add_argument("--json", action="store_true", help="print JSON")


def run(args: argparse.Namespace) -> int:
    """Compare and print; 1 where something is worse by more than its margin."""
    from dataclasses import asdict
    from pathlib import Path

    from lumina.cli.profiling import at_least
    from lumina.errors import LuminaError
    from lumina.measure.bench.comparison import Margins, compare_files

    margins = Margins(args.time_margin, args.loss_margin, args.memory_margin)
    if min(margins.time, margins.loss, margins.memory) < 0:
        raise LuminaError("E005", "a margin is below 0", "give 0 or more")
    skip = at_least("skip", args.skip, 0)
    found = compare_files(Path(args.first), Path(args.second), margins, skip)
    if args.json:
        print(json.dumps([asdict(one) for one in found], indent=2))
    else:
        print(_text(found))
    bad = {"worse", "unclear"} if args.strict else {"worse"}
    return int(any(one.verdict in bad for one in found))


def _text(found: list[Compared]) -> str:
    from lumina.cli.text import table

    def shown(one: Compared, value: float) -> str:
        return f"{value:+.2%}" if one.relative else f"{value:+.4f}"

    rows = [
        [
            one.name,
            str(one.pairs),
            f"{one.first:.6g}",
            f"{one.second:.6g}",
            shown(one, one.change),
            "exact"
            if one.low == one.high
            else f"{shown(one, one.low)} to {shown(one, one.high)}",
            shown(one, one.margin),
            one.verdict,
        ]
        for one in found
    ]
    head = ("", "pairs", "first", "second", "worse by", "95% interval", "margin", "")
    return table(head, rows, right="pairs first second")
