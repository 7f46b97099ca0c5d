"""`lumina runs show`: one run at a look."""

from __future__ import annotations

import argparse
import json
from typing import Any

SUMMARY = "show what one run was, and what came of it"


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Declare the command's arguments."""
    parser.add_argument("run", help="a run, or its name below ./runs")
    parser.add_argument("--json", action="store_true", help="print JSON")


def run(args: argparse.Namespace) -> int:
    """Print it."""
    from lumina.cli.run_details import detailed
    from lumina.cli.run_files import one_run

    path = one_run(args.run)
    found = detailed(path)
    if args.json:
        print(json.dumps(found, indent=2, default=str))
        return 0
    print(path)
    for name, value in _rows(found).items():
        print(f"  {name:<13} {value}")
    for one in found["warnings"]:
        code = f"{one['code']} " if one["code"] else ""
        print(f"  step {one['step']}: {code}{one['message']}")
    return 0


def _rows(found: dict[str, Any]) -> dict[str, str]:
    from lumina.config.provenance import show
    from lumina.quantities import count, decimal, duration, rate

    plan = found["plan"]
    asked = [f"{leaf} {show(value)}" for leaf, value in found["asked"].items()]
    judged = "no evaluation"
    if found["best_eval"] is not None:
        judged = f"{decimal(found['best_eval'])} after step {found['best_step']:,}"
    steps = plan.get("steps")
    return {
        "state": found["state"],
        "tags": ", ".join(found["tags"]) or "none",
        "preset": found["preset"] or "none",
        "asked for": ", ".join(asked) or "nothing else",
        "model": f"{count(plan.get('parameters'))} parameters, "
        f"{count(plan.get('active_parameters'))} active",
        "trained": f"{found['step'] or 0:,} of {steps if steps is not None else '?'} "
        f"steps, {count(found['tokens'])} tokens, {duration(found['seconds'])}, "
        f"{rate(found['tokens_per_second'])} tokens/s",
        "loss": f"{decimal(found['first_loss'])} -> {decimal(found['loss'])}",
        "best held-out": judged,
        "checkpoints": ", ".join(found["checkpoints"]) or "none",
        "events": ", ".join(f"{n} {kind}" for kind, n in found["events"].items())
        or "none",
    }
