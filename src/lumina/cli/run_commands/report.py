"""`lumina runs report`: the page that tells what a run did, written again."""

from __future__ import annotations

import argparse

SUMMARY = "write a run's report.html again, from its files"


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Declare the command's arguments."""
    parser.add_argument("runs", nargs="+", metavar="RUN", help="a run directory")


def run(args: argparse.Namespace) -> int:
    """Write the page of each run, and say where it is."""
    from lumina.observe.report import write_report

    for folder in args.runs:
        print(write_report(folder))
    return 0
