"""What the heads of attention look at."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from typing import Any

from lumina.observe.report.chart import Chart, Unit, chart, layers, line
from lumina.observe.report.metrics import Metrics

TITLE = "Attention"
PLACE = 45

_FIGURES: tuple[tuple[str, str, Unit], ...] = (
    ("average_attention_entropy", "Entropy of attention (bits)", "number"),
    ("attention_sparsity", "Sparsity of attention", "share"),
    ("head_specialization", "Specialisation of heads", "number"),
    ("local_attention_ratio", "Attention to near tokens", "share"),
    ("global_attention_ratio", "Attention to far tokens", "share"),
    ("redundant_heads", "Redundant heads", "count"),
    ("largest_attention_logit", "Largest attention logit", "number"),
)


def charts(metrics: Metrics, plan: Mapping[str, Any]) -> Iterator[Chart | None]:
    """Each figure by layer where the run reports it so, else its mean."""
    for key, title, unit in _FIGURES:
        by_layer = layers(metrics, f"layers.{key}")
        mean = line(metrics, key, "mean of layers", smoothed=False)
        # The mean is among the lines of the layers, under its own key.
        bounds = by_layer[1:] if mean is not None else by_layer
        yield chart(title, unit, [mean, *bounds])
