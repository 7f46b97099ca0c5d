"""What the run learned."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from typing import Any

from lumina.observe.report.chart import Chart, Unit, chart, line
from lumina.observe.report.metrics import Metrics

TITLE = "Loss"
PLACE = 10


def charts(metrics: Metrics, plan: Mapping[str, Any]) -> Iterator[Chart | None]:
    """Training and held-out loss in one chart, and what else evaluations measure."""
    yield chart(
        "Loss (nats per token)",
        "number",
        [
            line(metrics, "loss", "training"),
            line(metrics, "eval_loss", "held out", smoothed=False),
        ],
        "Lower is better. The distance between the two lines is what the model knows "
        "of its training text only.",
    )
    measured = [
        key
        for key in metrics.keys
        if key.startswith("eval_") and key not in ("eval_loss", "eval_tokens")
    ]
    for key in measured:
        name = key.removeprefix("eval_").replace("_", " ")
        unit: Unit = "share" if _is_share(key) else "number"
        yield chart(
            f"Held out: {name}", unit, [line(metrics, key, name, smoothed=False)]
        )


def _is_share(key: str) -> bool:
    return key.endswith(("accuracy", "share", "exact"))
