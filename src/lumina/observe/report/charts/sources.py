"""The sources of a mixture, and the tasks of a model that has several."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from typing import Any

from lumina.observe.by_source import names_of
from lumina.observe.report.chart import Chart, Unit, chart, line
from lumina.observe.report.metrics import Metrics

TITLE = "Sources and tasks"
PLACE = 50


def charts(metrics: Metrics, plan: Mapping[str, Any]) -> Iterator[Chart | None]:
    """Losses and shares of each; shares only where they change."""
    for kind in ("source", "task"):
        names = names_of(kind, metrics.keys)
        for title, ending, smoothed in (
            (f"Loss of each {kind}", "loss", True),
            (f"Held-out loss of each {kind}", "eval_loss", False),
            (f"Held-out accuracy of each {kind}", "eval_accuracy", False),
        ):
            unit: Unit = "share" if ending == "eval_accuracy" else "number"
            lines = [
                line(metrics, f"{kind}.{name}.{ending}", name, smoothed=smoothed)
                for name in names
            ]
            yield chart(title, unit, lines)
        shares = [line(metrics, f"{kind}.{name}.weight", name) for name in names]
        if any(one is not None and len(set(one.values)) > 1 for one in shares):
            yield chart(f"Share of each {kind}", "share", shares)
