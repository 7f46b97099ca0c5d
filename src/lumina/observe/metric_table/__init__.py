"""Every key of metrics.jsonl, described once: what docs/metrics.md is made from.

A further subject is a file with a `TITLE` and `METRICS`, and a name in `SUBJECTS`.
"""

from __future__ import annotations

import re

from lumina.observe.metric_table import (
    adaptive,
    core,
    depths,
    experts,
    memory,
    ranks,
    reasoning,
    recursions,
    sampled,
    speed,
)
from lumina.observe.metric_table.metric import Metric

SUBJECTS = (
    core,
    speed,
    memory,
    ranks,
    experts,
    depths,
    recursions,
    reasoning,
    sampled,
    adaptive,
)

METRICS: tuple[Metric, ...] = tuple(
    metric for subject in SUBJECTS for metric in subject.METRICS
)

ALIASES: dict[str, str] = {
    alias: metric.key for metric in METRICS for alias in metric.also
}
"""Other name -> key of a row."""

OF_A_RANK = frozenset(metric.key for metric in METRICS if metric.of_a_rank)
"""Keys whose values differ between the processes of a run."""

UNREPEATABLE = OF_A_RANK | {metric.key for metric in METRICS if metric.of_a_machine}
"""Keys whose values differ when a run is repeated."""


def described(key: str) -> Metric | None:
    """The entry of a key of a row; that of a pattern only where no other fits."""
    for metric in METRICS:
        if metric.key == key:
            return metric
    for metric in METRICS:
        if "NAME" in metric.key:
            pattern = re.escape(metric.key).replace("NAME", "[^.].*")
            if re.fullmatch(pattern, key):
                return metric
    return None


def as_markdown() -> str:
    """The tables of docs/metrics.md."""
    parts = []
    for subject in SUBJECTS:
        lines = [
            f"## {subject.TITLE}",
            "",
            "| Key | Unit | Meaning | Formula | In which rows |",
            "|---|---|---|---|---|",
        ]
        for metric in subject.METRICS:
            names = [f"`{name}`" for name in (metric.key, *metric.also)]
            name = names[0]
            if names[1:]:
                name += f" (also {', '.join(names[1:])})"
            formula = f"`{metric.formula}`" if metric.formula else ""
            formula = formula.replace("|", "\\|")
            cells = (name, metric.unit, metric.meaning, formula, metric.when)
            lines.append(f"| {' | '.join(cells)} |")
        parts.append("\n".join(lines))
    return "\n\n".join(parts) + "\n"
