"""`lumina experience import`: an export into the store."""

from __future__ import annotations

import argparse
from pathlib import Path

from lumina.cli.experience_store import add_store_option, store_of

SUMMARY = "take in what `lumina experience export` has written"


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Declare the command's arguments."""
    parser.add_argument("file", help="an export")
    add_store_option(parser)


def run(args: argparse.Namespace) -> int:
    """Check every value of the file, and only then take it in."""
    from lumina.state.experience.exchange import read_export, take_in

    store = store_of(args)
    held = read_export(Path(args.file))
    count = take_in(store, held)
    print(f"{store.path}: {count} runs and {len(held.outcomes)} outcomes taken in")
    return 0
