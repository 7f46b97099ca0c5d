"""`lumina pretests matrix`: what is proven, by optimisation, size and kind of model."""

from __future__ import annotations

import argparse
import json
from pathlib import Path

SUMMARY = "what pretests have proven, by optimisation, size and kind of model"


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Declare the command's arguments."""
    parser.add_argument("--device", default="auto", choices=("auto", "cpu", "cuda"))
    parser.add_argument(
        "--architectures", nargs="+", default=[], metavar="KIND",
        help="kinds to list where nothing was tried, such as dense or moe",
    )  # fmt: skip
    parser.add_argument("--out", metavar="FILE", help="write it there as Markdown")
    parser.add_argument("--json", action="store_true", help="print JSON")


def run(args: argparse.Namespace) -> int:
    """Print the matrix."""
    from dataclasses import asdict

    from lumina.durable import write_error, write_file
    from lumina.guard.matrix import as_markdown, matrix
    from lumina.plan.environment import probe

    cells = matrix(probe(args.device), args.architectures)
    text = as_markdown(cells)
    if args.out:
        try:
            write_file(Path(args.out), text.encode())
        except OSError as error:
            raise write_error(error, Path(args.out)) from error
    print(json.dumps([asdict(one) for one in cells], indent=2) if args.json else text)
    return 0
