"""`lumina explain`: what an error code means, and what helps in common troubles."""

from __future__ import annotations

import argparse
import dataclasses
import json

from lumina.cli.text import table
from lumina.errors import CODES
from lumina.observe.advice import explained, find_explained, in_words


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Declare the command's arguments."""
    parser.add_argument(
        "names",
        nargs="*",
        metavar="NAME",
        help="a code, such as E201, or a topic; without one, all are listed",
    )
    parser.add_argument("--json", action="store_true", help="print JSON")


def run(args: argparse.Namespace) -> int:
    """Explain what was named, or list what can be."""
    names = args.names or list(explained())
    found = [find_explained(name) for name in names]
    if args.json:
        print(json.dumps([dataclasses.asdict(one) for one in found], indent=2))
    elif args.names:
        print("\n\n".join(in_words(one) for one in found))
    else:
        rows = {
            True: [[one.name, one.title] for one in found if one.name in CODES],
            False: [[one.name, one.title] for one in found if one.name not in CODES],
        }
        print(table(("code", "what happened"), rows[True]))
        print("\n" + table(("topic", "trouble"), rows[False]))
    return 0
