"""`lumina demo`: text in, a model that answers out, from this machine alone."""

from __future__ import annotations

import argparse
import time
from pathlib import Path

from lumina.errors import LuminaError


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Declare the command's arguments."""
    parser.add_argument(
        "--minutes",
        type=float,
        default=5.0,
        help="wall-clock time to plan for, set-up aside; default: 5",
    )
    parser.add_argument(
        "--dir",
        type=Path,
        metavar="FOLDER",
        help="where data and runs go; default: runs/demo-DATE-TIME",
    )
    parser.add_argument(
        "--quick",
        action="store_true",
        help="a small part of the text and few steps: shows that every part works",
    )


def run(args: argparse.Namespace) -> int:
    """Run the demonstration; 1 when the model does not beat a bigram."""
    if not 0 < args.minutes <= 24 * 60:
        raise LuminaError(
            "E005", f"--minutes is {args.minutes:g}", "give more than 0, such as 5"
        )
    from lumina.train.demo.run import Demo, DemoOptions

    folder = args.dir or Path("runs") / time.strftime("demo-%Y%m%d-%H%M%S")
    options = DemoOptions(folder=folder, minutes=args.minutes, quick=args.quick)
    return Demo(options, say=lambda line: print(line, flush=True)).run()
