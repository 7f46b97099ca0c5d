"""`lumina runs list`: how far each run came, and in what state it is."""

from __future__ import annotations

import argparse
import json
from pathlib import Path
from typing import Any

from lumina.cli.run_files import find_runs
from lumina.cli.run_index import opened
from lumina.cli.text import table
from lumina.errors import LuminaError

SUMMARY = "list the runs below a folder"

_HEAD = ("run", "preset", "step", "loss", "eval", "checkpoint", "state", "tags")

SORTS = ("written", "run", "step", "loss", "eval")


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Declare the command's arguments."""
    parser.add_argument("folder", nargs="?", default="runs", help="default: ./runs")
    parser.add_argument(
        "--all",
        action="store_true",
        help="the runs of all folders that were listed before",
    )
    parser.add_argument("--tag", metavar="TAG", help="only runs with this tag")
    parser.add_argument(
        "--state", metavar="STATE", help="only finished, running, killed, failed runs"
    )
    parser.add_argument(
        "--sort", choices=SORTS, default="written", help="default: written, latest last"
    )
    parser.add_argument(
        "--rebuild",
        action="store_true",
        help="forget the index and read every run's files",
    )
    parser.add_argument("--json", action="store_true", help="print JSON")


def run(args: argparse.Namespace) -> int:
    """Print the runs, the latest last."""
    folder = Path(args.folder)
    if not args.all and not folder.is_dir():
        if args.folder == "runs":
            print(
                "[]" if args.json else "no runs here yet; `lumina train` makes ./runs"
            )
            return 0
        raise LuminaError(
            "E104",
            f"{folder} is not a folder",
            "check the path; `lumina runs --help` lists the commands",
        )
    with opened() as index:
        known = index.known() if args.all or args.rebuild else []
        if args.rebuild:
            index.clear()
        runs = index.described(known if args.all else find_runs(folder))
    runs = sorted(filter(_wanted(args), runs), key=_order(args.sort))
    if args.json:
        print(json.dumps(runs, indent=2))
    elif not runs:
        print("no such runs" if args.all else f"no runs in {folder}")
    else:
        name = "path" if args.all else "run"
        rows = [
            [_cell(one[name if key == "run" else key]) for key in _HEAD] for one in runs
        ]
        print(table(_HEAD, rows, right="step loss eval"))
    return 0


def _wanted(args: argparse.Namespace) -> Any:
    def wanted(one: dict[str, Any]) -> bool:
        tagged = args.tag is None or args.tag in one["tags"]
        return tagged and (args.state is None or args.state == one["state"])

    return wanted


def _order(name: str) -> Any:
    def place(one: dict[str, Any]) -> tuple[bool, Any, str]:
        value = one[name]
        return value is not None, value if value is not None else 0, one["run"]

    return place


def _cell(value: object) -> str:
    if value is None or value == []:
        return "-"
    if isinstance(value, list):
        return ", ".join(value)
    return f"{value:.4f}" if isinstance(value, float) else str(value)
