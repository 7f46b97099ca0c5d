"""`lumina experience forget`: remove runs, outcomes of an anomaly, or everything."""

from __future__ import annotations

import argparse

from lumina.cli.experience_store import add_store_option, runs_named, store_of
from lumina.errors import LuminaError

SUMMARY = "remove runs, the outcomes of an anomaly, or everything"


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Declare the command's arguments."""
    what = parser.add_mutually_exclusive_group(required=True)
    what.add_argument(
        "--run", nargs="+", metavar="RUN", help="runs, by their name or their id"
    )
    what.add_argument("--anomaly", help="the outcomes of decisions about it")
    what.add_argument("--all", action="store_true", help="everything")
    parser.add_argument("--yes", action="store_true", help="do not ask")
    add_store_option(parser)


def run(args: argparse.Namespace) -> int:
    """Say what is going to be removed, ask, and remove it."""
    store = store_of(args)
    held = store.all()
    ids: list[str] = []
    if args.anomaly is not None:
        count = sum(one.anomaly == args.anomaly for one in held.outcomes)
        if not count:
            raise LuminaError(
                "E304",
                f"the store holds no outcome of {args.anomaly}",
                "`lumina experience explain` shows them",
            )
        print(f"{count} outcomes of {args.anomaly}")
    else:
        chosen = held.runs
        if args.run:
            chosen = [run for named in args.run for run in runs_named(chosen, named)]
        ids = list(dict.fromkeys(run.id for run in chosen))
        count = sum(one.run in ids for one in held.outcomes)
        runs = f"{len(ids)} {'run' if len(ids) == 1 else 'runs'}"
        print(f"{runs} and {count} outcomes")
        for one in {run.id: run for run in chosen}.values():
            print(f"  {one.name} ({one.id[:8]})")
    if not count and not ids:
        print("there is nothing to remove")
        return 0
    if not args.yes and not _agreed():
        print("nothing is removed")
        return 1
    if args.anomaly is not None:
        store.forget_anomaly(args.anomaly)
    else:
        store.forget_runs(ids)
    print(f"removed from {store.path}")
    return 0


def _agreed() -> bool:
    import sys

    if not sys.stdin.isatty():
        raise LuminaError(
            "E005", "no terminal to ask on", "add --yes to remove without a question"
        )
    return input("remove for good? [y/N] ").strip().lower() in ("y", "yes")
