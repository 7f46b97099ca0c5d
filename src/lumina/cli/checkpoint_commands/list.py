"""`lumina checkpoints list`: what each checkpoint of a run is, and what it takes."""

from __future__ import annotations

import argparse
import json
from typing import Any

SUMMARY = "list the checkpoints of a run"

_HEAD = ("checkpoint", "kind", "epoch", "loss", "eval", "size", "written", "named by")


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Declare the command's arguments."""
    parser.add_argument("run", help="a run directory")
    parser.add_argument("--json", action="store_true", help="print JSON")


def run(args: argparse.Namespace) -> int:
    """Print them, the oldest first."""
    from lumina.cli.text import table
    from lumina.state.inspection import described

    found = described(args.run)
    if args.json:
        print(json.dumps(found, indent=2))
        return 0
    if not found:
        print(f"{args.run} has no checkpoints yet")
        return 0
    print(table(_HEAD, [_row(one) for one in found], right="epoch loss eval size"))
    return 0


def _row(one: dict[str, Any]) -> list[str]:
    import time

    from lumina.quantities import byte_size

    if one["problem"] is not None:
        return [one["name"], f"damaged: {one['problem']}", *["-"] * 6]
    written = time.strftime("%Y-%m-%d %H:%M", time.localtime(one["created"]))
    losses = [
        "-" if one[key] is None else f"{one[key]:.4f}" for key in ("loss", "eval_loss")
    ]
    return [
        one["name"],
        ", ".join(one["kinds"]),
        "-" if one["epoch"] is None else f"{one['epoch']:.4g}",
        *losses,
        byte_size(one["bytes"]),
        written,
        ", ".join(one["named_by"]) or "-",
    ]
