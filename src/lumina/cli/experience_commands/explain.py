"""`lumina experience explain`: what earlier outcomes say about each action."""

from __future__ import annotations

import argparse
import json
from typing import Any

from lumina.cli.experience_store import add_store_option, store_of
from lumina.cli.text import table
from lumina.errors import LuminaError

SUMMARY = "show how often each action helped, in which runs, and what that is worth"

_PRIOR = 0.7
"""The confidence without experience that the table takes as an example."""


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Declare the command's arguments."""
    parser.add_argument(
        "anomalies",
        nargs="*",
        metavar="ANOMALY",
        help="such as loss_spike; without one, all are explained",
    )
    add_store_option(parser)
    parser.add_argument("--json", action="store_true", help="print JSON")


def run(args: argparse.Namespace) -> int:
    """Print the counts of each anomaly, context and action."""
    store = store_of(args)
    held = store.all()
    known = sorted({one.anomaly for one in held.outcomes})
    for named in args.anomalies:
        if named not in known:
            raise LuminaError(
                "E304",
                f"the store holds no outcome of {named}",
                f"it has some of {', '.join(known) or 'no anomaly'}",
            )
    found = _counted(held, args.anomalies or known)
    if args.json:
        print(json.dumps(found, indent=1))
        return 0
    if not found:
        print(f"{store.path} holds no outcome of a decision yet")
        return 0
    head = (
        "anomaly",
        "context",
        "action",
        "helped",
        "not",
        f"{_PRIOR} becomes",
        "runs",
    )
    print(table(head, [_cells(one) for one in found]))
    print(
        "\nAn outcome counts as help where the run did better than expected without "
        "the action. Unclear outcomes and decisions in shadow do not count, and fewer "
        "than five outcomes change nothing."
    )
    return 0


def _counted(held: Any, anomalies: list[str]) -> list[dict[str, Any]]:
    from lumina.plan.experience import LEAST, WEIGHTS
    from lumina.state.experience.posterior import succeeded

    names = {run.id: run.name for run in held.runs}
    groups: dict[tuple[str, str, str], dict[str, Any]] = {}
    for one in held.outcomes:
        good = succeeded(one)
        if good is None or one.anomaly not in anomalies:
            continue
        group = groups.setdefault(
            (one.anomaly, one.context, one.action),
            {"successes": 0, "failures": 0, "runs": []},
        )
        group["successes" if good else "failures"] += 1
        if names[one.run] not in group["runs"]:
            group["runs"].append(names[one.run])
    found = []
    for (anomaly, context, action), group in sorted(groups.items()):
        good, seen = group["successes"], group["successes"] + group["failures"]
        weight = WEIGHTS[0]
        value = (_PRIOR * weight + good) / (weight + seen) if seen >= LEAST else _PRIOR
        found.append(
            {"anomaly": anomaly, "context": context, "action": action, **group,
             "prior": _PRIOR, "confidence": value}
        )  # fmt: skip
    return found


def _cells(one: dict[str, Any]) -> list[str]:
    shown, more = one["runs"][:3], len(one["runs"]) - 3
    names = ", ".join(shown) + (f" and {more} more" if more > 0 else "")
    return [
        one["anomaly"], one["context"], one["action"], str(one["successes"]),
        str(one["failures"]), f"{one['confidence']:.2f}", names,
    ]  # fmt: skip
