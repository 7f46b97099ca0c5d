"""`lumina experience list`: the runs and strategies that are remembered."""

from __future__ import annotations

import argparse
import json
from typing import Any

from lumina.cli.experience_store import add_store_option, store_of
from lumina.cli.text import table

SUMMARY = "list the runs that are remembered, and which start values did best"

_SHOWN = 30


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Declare the command's arguments."""
    add_store_option(parser)
    parser.add_argument("--all", action="store_true", help="list every run")
    parser.add_argument("--json", action="store_true", help="print JSON")


def run(args: argparse.Namespace) -> int:
    """Print both tables."""
    from lumina.quantities import counted
    from lumina.state.experience.strategies import strategies

    store = store_of(args)
    held = store.all()
    best = strategies(held.runs)
    if args.json:
        found = {
            "store": str(store.path),
            "runs": [run.to_dict() for run in held.runs],
            "outcomes": len(held.outcomes),
            "strategies": [{**vars(one), "confidence": one.confidence} for one in best],
        }
        print(json.dumps(found, indent=1))
        return 0
    runs, outcomes = len(held.runs), len(held.outcomes)
    print(f"{store.path}: {counted(runs, 'run')}, {counted(outcomes, 'outcome')}")
    if not held.runs:
        return 0
    shown = held.runs if args.all else held.runs[:_SHOWN]
    head = ("run", "id", "ended", "kind", "data", "steps", "held-out loss", "rate")
    print("\n" + table(head, [_cells(run) for run in shown]))
    if len(shown) < len(held.runs):
        print(f"and {len(held.runs) - len(shown)} earlier ones; --all lists them")
    if best:
        titles = ("kind", "learning rate", "warm-up", "batch", "runs", "confidence")
        rows = [
            [one.kind, f"{one.learning_rate:g}", f"{one.warm_up:.0%}",
             str(one.global_batch_size), str(one.compared), f"{one.confidence:.2f}"]
            for one in best
        ]  # fmt: skip
        print("\nstart values of runs that can be compared, the surest first")
        print(table(titles, rows))
    return 0


def _cells(run: Any) -> list[str]:
    from lumina.quantities import decimal

    rate = run.options.get("learning_rate")
    loss = run.final_loss if run.eval_loss is None else run.eval_loss
    note = " (training)" if run.eval_loss is None and loss is not None else ""
    return [
        run.name, run.id[:8], run.status, run.kind, run.data[:8] or "unknown",
        f"{run.steps:,}", decimal(loss) + note, f"{rate:g}" if rate else "unknown",
    ]  # fmt: skip
