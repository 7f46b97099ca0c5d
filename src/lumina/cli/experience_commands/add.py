"""`lumina experience add`: runs into the store, from their folders."""

from __future__ import annotations

import argparse

from lumina.cli.experience_store import add_store_option, store_of

SUMMARY = "remember runs from their folders, such as one that was killed"


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Declare the command's arguments."""
    parser.add_argument(
        "runs", nargs="+", metavar="RUN", help="a run, or its name below ./runs"
    )
    add_store_option(parser)


def run(args: argparse.Namespace) -> int:
    """Read each run, and put it in the place of what the store held of it."""
    from lumina.cli.run_files import one_run
    from lumina.state.experience.of_run import record_of
    from lumina.state.run_directory import RunDirectory

    store = store_of(args)
    for named in args.runs:
        path = one_run(named)
        record, outcomes = record_of(RunDirectory(path))
        store.add((record, outcomes))
        print(f"{path} is remembered: {record.status}, {len(outcomes)} outcomes")
    return 0
