"""Which experts, depths and passes tokens were given to."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from typing import Any

from lumina.observe.report.chart import Chart, Line, Unit, chart, layers, line
from lumina.observe.report.metrics import MOST_PARTS, Metrics

TITLE = "Routing"
PLACE = 40

_FIGURES: tuple[tuple[str, str, Unit, str], ...] = (
    ("moe.max_violation", "Busiest expert over the even share, less 1", "number",
     "0 is perfect balance; 1 means that an expert got twice its share."),
    ("moe.load_entropy", "Entropy of the expert load (nats)", "number",
     "Highest, the logarithm of the number of experts, when all are used alike."),
    ("moe.dead_experts", "Experts without any token in a step", "number", ""),
    ("moe.dropped_fraction", "Tokens that no expert had room for", "share", ""),
    ("mod.selected_ratio", "Tokens that a depth-routed block computed", "share", ""),
    ("mor.mean_depth", "Mean number of passes of a token", "number", ""),
    ("act.mean_steps", "Mean number of steps before halting", "number", ""),
)  # fmt: skip


def charts(metrics: Metrics, plan: Mapping[str, Any]) -> Iterator[Chart | None]:
    """The load of the experts, its balance, and the work that tokens were given."""
    yield chart("Share of the tokens of each expert", "share", _loads(metrics))
    for key, title, unit, about in _FIGURES:
        yield chart(title, unit, layers(metrics, key), about)
    yield chart(
        "Losses that keep routers in balance",
        "small",
        [
            line(metrics, key, key)
            for key in (
                "moe.balance_loss",
                "moe.z_loss",
                "mor.balance_loss",
                "mor.z_loss",
            )
        ],
    )


def _loads(metrics: Metrics) -> Iterator[Line | None]:
    for expert in range(MOST_PARTS):
        yield line(metrics, f"moe.load[{expert}]", f"expert {expert}")
