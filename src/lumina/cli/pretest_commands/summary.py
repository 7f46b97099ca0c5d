"""`lumina pretests summary`: what is known of each feature on this machine."""

from __future__ import annotations

import argparse
import json
import time

SUMMARY = "the newest result of each feature, and how often it failed"


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Declare the command's arguments."""
    parser.add_argument("--json", action="store_true", help="print JSON")


def run(args: argparse.Namespace) -> int:
    """Print a line for each feature and device."""
    from dataclasses import asdict

    from lumina.cli.text import table
    from lumina.guard.history import summary

    found = summary()
    if args.json:
        print(json.dumps([asdict(one) for one in found], indent=2))
    elif not found:
        print("nothing was tried here yet; `lumina pretests run` does")
    else:
        rows = [
            [
                one.last.feature,
                one.last.device,
                "works" if one.last.passed else "fails",
                f"{one.failures} of {one.tries}",
                time.strftime("%Y-%m-%d %H:%M", time.localtime(one.last.time)),
                one.last.problem,
            ]
            for one in found
        ]
        head = ("feature", "device", "last", "failures", "when", "problem")
        print(table(head, rows))
    return 0
