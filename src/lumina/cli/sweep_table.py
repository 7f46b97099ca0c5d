"""The table at the end of a sweep: each combination with its spread over the seeds."""

from __future__ import annotations

import csv
import io
import math
import statistics
from collections.abc import Iterable
from typing import Any

from lumina.cli.sweep_runs import Outcome
from lumina.cli.text import table
from lumina.quantities import clock, decimal


def summarised(
    outcomes: Iterable[Outcome], metric: str, *, highest: bool
) -> list[dict[str, Any]]:
    """A row for each combination, the best mean first, those without one last.

    Args:
        outcomes: of all runs.
        metric: what is compared.
        highest: more of it is better.

    Returns:
        Plain JSON values: setting, values, seeds, finished, failed, stopped, mean,
        deviation (of the sample; None for a single seed), lowest, highest, best (the
        mean of the best evaluation of each run), seconds (the mean).
    """
    groups: dict[str, list[Outcome]] = {}
    for outcome in outcomes:
        groups.setdefault(outcome.point.setting, []).append(outcome)
    rows = [_row(held, metric, highest) for held in groups.values()]
    worst = math.inf

    def place(row: dict[str, Any]) -> float:
        if row["mean"] is None:
            return worst
        return -row["mean"] if highest else float(row["mean"])

    return sorted(rows, key=place)


def _row(held: list[Outcome], metric: str, highest: bool) -> dict[str, Any]:
    found = [one.metrics for one in held if metric in one.metrics]
    values = [metrics[metric] for metrics in found]
    best = [metrics["highest" if highest else "lowest"] for metrics in found]
    seconds = [metrics["seconds"] for metrics in found]
    states = [one.status for one in held]
    return {
        "setting": held[0].point.setting,
        "values": dict(held[0].point.values),
        "seeds": [one.point.seed for one in held],
        **{state: states.count(state) for state in ("finished", "failed", "stopped")},
        "mean": statistics.fmean(values) if values else None,
        "deviation": statistics.stdev(values) if len(values) > 1 else None,
        "lowest": min(values, default=None),
        "highest": max(values, default=None),
        "best": statistics.fmean(best) if best else None,
        "seconds": statistics.fmean(seconds) if seconds else None,
    }


def shown(rows: list[dict[str, Any]], metric: str) -> str:
    """The table for a person."""
    head = ("setting", "runs", metric, "+-", "lowest", "highest", "best", "time")
    cells = [
        [
            row["setting"],
            f"{row['finished']}/{len(row['seeds'])}",
            *(decimal(row[k]) for k in ("mean", "deviation", "lowest", "highest")),
            decimal(row["best"]),
            clock(row["seconds"]),
        ]
        for row in rows
    ]
    return table(head, cells, right=" ".join(head[1:]))


def as_csv(outcomes: Iterable[Outcome], metric: str) -> str:
    """A line for each run."""
    outcomes = list(outcomes)
    leaves = list(dict.fromkeys(leaf for one in outcomes for leaf in one.point.values))
    text = io.StringIO()
    lines = csv.writer(text, lineterminator="\n")
    lines.writerow(["run", *leaves, "seed", "status", metric, "best", "seconds"])
    for one in outcomes:
        values = [one.point.values.get(leaf, "") for leaf in leaves]
        metrics = [one.metrics.get(k, "") for k in (metric, "lowest", "seconds")]
        lines.writerow([one.point.name, *values, one.point.seed, one.status, *metrics])
    return text.getvalue()
