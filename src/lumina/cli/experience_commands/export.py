"""`lumina experience export`: the store as JSON."""

from __future__ import annotations

import argparse
import sys
from pathlib import Path

from lumina.cli.experience_store import add_store_option, store_of
from lumina.errors import LuminaError

SUMMARY = "write all that is remembered as JSON"


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Declare the command's arguments."""
    parser.add_argument("file", nargs="?", help="where to; default: standard output")
    add_store_option(parser)


def run(args: argparse.Namespace) -> int:
    """Write it."""
    from lumina.durable import write_error, write_file
    from lumina.state.experience.exchange import exported

    held = store_of(args).all()
    text = exported(held)
    if args.file is None:
        sys.stdout.write(text)
        return 0
    path = Path(args.file)
    if path.exists():
        raise LuminaError("E002", f"{path} is there already", "name another file")
    try:
        write_file(path, text.encode())
    except OSError as error:
        raise write_error(error, path) from error
    print(f"{path}: {len(held.runs)} runs, {len(held.outcomes)} outcomes")
    return 0
