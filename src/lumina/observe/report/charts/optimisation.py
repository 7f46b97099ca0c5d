"""How the weights were changed."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from typing import Any

from lumina.observe.report.chart import Chart, chart, line
from lumina.observe.report.metrics import Metrics

TITLE = "Optimisation"
PLACE = 20


def charts(metrics: Metrics, plan: Mapping[str, Any]) -> Iterator[Chart | None]:
    """Learning rate and gradients."""
    rate = line(metrics, "learning_rate", "rate", smoothed=False)
    yield chart("Learning rate", "small", [rate])
    limit = plan.get("max_grad_norm")
    about = f"Gradients above {limit:g} are clipped to it." if limit else ""
    norm = line(metrics, "grad_norm", "norm")
    yield chart("Gradient norm before clipping", "number", [norm], about)
    if metrics.last.get("skipped"):
        skipped = line(metrics, "skipped", "skipped", smoothed=False)
        yield chart("Skipped steps so far", "count", [skipped])
