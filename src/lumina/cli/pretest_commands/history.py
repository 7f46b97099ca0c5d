"""`lumina pretests history`: every pretest that was made on this machine."""

from __future__ import annotations

import argparse
import json
import time

SUMMARY = "every pretest that was made here, the newest last"


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Declare the command's arguments."""
    parser.add_argument("name", nargs="?", metavar="FEATURE", help="of this one alone")
    parser.add_argument(
        "--last", type=int, default=20, metavar="N", help="how many (default 20)"
    )
    parser.add_argument("--json", action="store_true", help="print JSON")


def run(args: argparse.Namespace) -> int:
    """Print a line for each."""
    from dataclasses import asdict

    from lumina.cli.profiling import at_least
    from lumina.cli.text import table
    from lumina.guard.history import history

    found = history(args.name)[-at_least("last", args.last, 1) :]
    if args.json:
        print(json.dumps([asdict(one) for one in found], indent=2))
    elif not found:
        print("nothing was tried here yet; `lumina pretests run` does")
    else:
        rows = [
            [
                time.strftime("%Y-%m-%d %H:%M:%S", time.localtime(one.time)),
                one.feature,
                one.device,
                f"torch {one.torch}",
                f"{one.seconds:.1f} s",
                "works" if one.passed else f"fails: {one.problem}",
            ]
            for one in found
        ]
        print(table(("when", "feature", "device", "with", "took", "result"), rows))
    return 0
