"""`lumina adapters list`: the adapters below a folder, and what each is."""

from __future__ import annotations

import argparse
import json
from pathlib import Path
from typing import Any

SUMMARY = "list the adapters below a folder"

_HEAD = ("adapter", "method", "rank", "alpha", "parameters", "size", "base")


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Declare the command's arguments."""
    parser.add_argument(
        "folder", nargs="?", default=".", help="where to look; default: here"
    )
    parser.add_argument("--json", action="store_true", help="print JSON")


def run(args: argparse.Namespace) -> int:
    """Print them, with what is wrong with those that cannot be used."""
    from lumina.cli.text import table
    from lumina.state.adapters.listing import described

    found = described(Path(args.folder).expanduser())
    if args.json:
        print(json.dumps(found, indent=2))
        return 0
    if not found:
        print(f"no adapters below {args.folder}")
        return 0
    print(
        table(_HEAD, [_row(one) for one in found], right="rank alpha parameters size")
    )
    return 0


def _row(one: dict[str, Any]) -> list[str]:
    from lumina.quantities import byte_size, count

    if one["problem"] is not None:
        return [one["folder"], f"unusable: {one['problem']}", *["-"] * 5]
    return [
        one["folder"],
        one["method"],
        "-" if one["rank"] is None else str(one["rank"]),
        "-" if one["alpha"] is None else f"{one['alpha']:g}",
        count(one["parameters"]),
        byte_size(one["bytes"]),
        one["base"] or "-",
    ]
