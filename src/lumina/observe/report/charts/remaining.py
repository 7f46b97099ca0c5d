"""Figures that no other group shows, such as those of parts of one's own."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from typing import Any

from lumina.observe.report.chart import Chart, chart, layers
from lumina.observe.report.metrics import Metrics

TITLE = "Other figures"
PLACE = 100

_NOT_CURVES = (
    "step", "tokens", "epoch", "time", "perplexity", "skipped", "loss_tokens",
    "eval_tokens",
)  # fmt: skip
"""Counters, and what other figures say in other words."""


def charts(metrics: Metrics, plan: Mapping[str, Any]) -> Iterator[Chart | None]:
    """A chart for each figure that changes; `gather` removes those shown elsewhere."""
    for key in metrics.keys:
        if key in _NOT_CURVES or key.startswith("epoch."):
            continue
        lines = layers(metrics, key)
        if (
            len(
                {
                    float(y)
                    for one in lines
                    for y in (one.values.min(), one.values.max())
                }
            )
            > 1
        ):
            yield chart(key, "number", lines)
