"""How far each kind of tensor and each layer moves in a step."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from typing import Any

from lumina.observe.by_source import names_of
from lumina.observe.report.chart import Chart, Unit, chart, layers, line
from lumina.observe.report.metrics import Metrics

TITLE = "Weights and their updates"
PLACE = 25

_FIGURES: tuple[tuple[str, str, Unit, str], ...] = (
    ("update_ratio", "Update over the size of the weights", "small",
     "About 0.001 is usual for AdamW; far more is a rate that is too high."),
    ("gradient_norm", "Gradient norm", "number", ""),
    ("weight_norm", "Norm of the weights", "number", ""),
)  # fmt: skip


def charts(metrics: Metrics, plan: Mapping[str, Any]) -> Iterator[Chart | None]:
    """By kind of tensor, and by layer."""
    for ending, title, unit, about in _FIGURES:
        lines = [
            line(metrics, f"group.{name}.{ending}", name, smoothed=False)
            for name in names_of("group", metrics.keys, ending)
        ]
        yield chart(f"{title}, by kind of tensor", unit, lines, about)
        by_layer = layers(metrics, f"layers.{ending}")
        yield chart(f"{title}, by layer", unit, by_layer)
