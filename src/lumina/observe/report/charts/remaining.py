"""Figures that no other group shows, such as those of parts of one's own."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from typing import Any

from lumina.observe.metric_table import described
from lumina.observe.report.chart import Chart, Unit, chart, layers
from lumina.observe.report.metrics import Metrics

TITLE = "Other figures"
PLACE = 100

_NOT_CURVES = (
    "step", "tokens", "epoch", "time", "perplexity", "skipped", "loss_tokens",
    "eval_tokens", "samples_per_second", "steps_per_second", "disk_free_bytes",
    "disk_utilization",
)  # fmt: skip
"""Counters, and what other figures say in other words."""

_UNITS: dict[str, Unit] = {"bytes": "bytes", "seconds": "seconds"}


def charts(metrics: Metrics, plan: Mapping[str, Any]) -> Iterator[Chart | None]:
    """A chart for each figure that changes; `gather` removes those shown elsewhere."""
    for key in metrics.keys:
        if key in _NOT_CURVES or key.startswith("epoch."):
            continue
        lines = layers(metrics, key)
        ends = {end for one in lines for end in (one.values.min(), one.values.max())}
        if len(ends) < 2:
            continue
        known = described(key)
        meaning, unit = (known.meaning, known.unit) if known else ("", "")
        about = f"{meaning[:1].upper()}{meaning[1:]}." if meaning else ""
        yield chart(key, _UNITS.get(unit, "number"), lines, about)
