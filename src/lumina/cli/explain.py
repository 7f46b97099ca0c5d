"""`lumina explain`: what an error code means, what helps, and what a run decided."""

from __future__ import annotations

import argparse
import dataclasses
import json
from pathlib import Path

from lumina.cli.text import table
from lumina.errors import CODES
from lumina.observe.advice import (
    as_asked,
    explained,
    find_explained,
    in_words,
    names_explained,
)


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Declare the command's arguments."""
    parser.add_argument(
        "names",
        nargs="*",
        metavar="NAME|RUN",
        help="a code, such as E201, a topic, or a run; without one, all codes and "
        "topics are listed",
    )
    parser.add_argument(
        "--plugins", nargs="+", default=[], metavar="FILE",
        help="of a run: plug-ins with the checks and actions that it had",
    )  # fmt: skip
    parser.add_argument("--json", action="store_true", help="print JSON")


def run(args: argparse.Namespace) -> int:
    """Explain what was named, or list what can be."""
    if (paths := _runs(args.names)) is not None:
        return _explain_runs(paths, args)
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


def _runs(names: list[str]) -> list[Path] | None:
    """The runs that are named; None where codes or topics are.

    Raises:
        LuminaError: E304 where a path is named, or one of several runs, that is no run.
    """
    from lumina.cli.run_files import is_run, one_run

    if not names or any(as_asked(name) in names_explained() for name in names):
        return None
    places = [(Path(name), Path("runs", name)) for name in names]
    if not any("/" in name for name in names) and not any(
        is_run(path) for pair in places for path in pair
    ):
        return None
    return [one_run(name) for name in names]


def _explain_runs(paths: list[Path], args: argparse.Namespace) -> int:
    from lumina.cli import explain_run
    from lumina.model.registry import load_plugins

    load_plugins(tuple(args.plugins))
    found = [explain_run.facts_of(path) for path in paths]
    if args.json:
        shown = [{k: v for k, v in one.items() if k != "made"} for one in found]
        print(json.dumps(shown, indent=2, default=str))
    else:
        print("\n\n".join(explain_run.in_words(one) for one in found))
    return 0
