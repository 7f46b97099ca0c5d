"""`lumina runs compare`: what runs were given, and what came of each."""

from __future__ import annotations

import argparse
import json
from typing import Any

SUMMARY = "compare runs: settings that differ, losses at the same step"

_RESULTS = (
    "state", "step", "tokens", "loss", "loss at same step", "best_eval",
    "parameters", "tokens_per_second", "seconds",
)  # fmt: skip

_PLACES = ("run_dir", "experiment_name", "resume", "auto_resume")
"""Options that differ between any two runs."""


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Declare the command's arguments."""
    parser.add_argument("runs", nargs="+", metavar="RUN", help="two runs or more")
    parser.add_argument("--json", action="store_true", help="print JSON")


def run(args: argparse.Namespace) -> int:
    """Print a column for each run."""
    from lumina.cli.run_details import detailed, losses
    from lumina.cli.run_files import one_run
    from lumina.cli.text import table
    from lumina.errors import LuminaError

    if len(args.runs) < 2:
        raise LuminaError("E005", "only one run is named", "name two runs or more")
    paths = [one_run(named) for named in args.runs]
    found = [detailed(path) for path in paths]
    curves = [losses(path) for path in paths]
    common = set.intersection(*(set(curve) for curve in curves))
    step = max(common, default=None)
    for one, curve in zip(found, curves, strict=True):
        one["loss at same step"] = None if step is None else curve[step]
        one["parameters"] = one["plan"].get("parameters")
    settings = _different(found)
    results = {name: [one[name] for one in found] for name in _RESULTS}
    if args.json:
        held = {
            "runs": [str(path) for path in paths],
            "same_step": step,
            "settings": settings,
            "results": results,
        }
        print(json.dumps(held, indent=2, default=str))
        return 0
    names = [path.name for path in paths]
    head = ("", *names)
    rows = [[leaf, *map(_cell, values)] for leaf, values in settings.items()]
    rows += [[name, *map(_cell, values)] for name, values in results.items()]
    print(table(head, rows))
    if step is not None:
        print(f"the same step is {step:,}, the last that all of them have a loss of")
    return 0


def _different(found: list[dict[str, Any]]) -> dict[str, list[Any]]:
    """Options whose values differ: option -> the value of each run."""
    leaves = dict.fromkeys(leaf for one in found for leaf in one["settings"])
    values = {leaf: [one["settings"].get(leaf) for one in found] for leaf in leaves}
    return {
        leaf: held
        for leaf, held in values.items()
        if leaf not in _PLACES and any(value != held[0] for value in held)
    }


def _cell(value: object) -> str:
    from lumina.config.provenance import show

    return "-" if value is None else show(value)
