"""This run beside the latest runs like it: a sentence, a table and a chart."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np

from lumina import quantities as q
from lumina.observe.report.chart import Chart, Line, chart, line
from lumina.observe.report.metrics import Metrics
from lumina.observe.report.record import Record
from lumina.state.experience.records import RunRecord

TITLE = "Beside earlier runs"

_TIE = 1e-9


def comparison(record: Record) -> dict[str, Any]:
    """What the page shows of it; empty where there is no run to compare with.

    Returns:
        `sentence`, and `rows`: name, how it ended, steps, tokens, learning rate,
        held-out loss, and its difference from this run's.
    """
    if not record.earlier:
        return {}
    mine = _last(record.metrics)
    rows = [_row("this run", record.metrics, record.plan, mine)]
    for one in record.earlier:
        loss = one.eval_loss
        rows.append(
            (
                one.name,
                one.status,
                f"{one.steps:,}",
                q.count(one.tokens),
                _rate(one.options.get("learning_rate")),
                q.decimal(loss),
                _difference(loss, mine),
            )
        )
    return {"sentence": _sentence(mine, record.earlier), "rows": rows}


def charts(record: Record) -> list[tuple[str, list[Chart]]]:
    """A group with the losses of this run and of those, over this run's steps."""
    if not record.earlier:
        return []
    metrics = record.metrics
    judged = len(metrics.column("eval_loss")) > 1
    key = "eval_loss" if judged else "loss"
    own = line(metrics, key, "this run", smoothed=not judged)
    others = [
        _placed(metrics, one.name, one.evaluations if judged else one.curve, key)
        for one in record.earlier
    ]
    made = chart(
        "Held-out loss" if judged else "Training loss",
        "number",
        [own, *others],
        "The latest runs of the same kind on the same data, each at the step at which "
        "this run had seen as many tokens.",
    )
    return [(TITLE, [made])] if made is not None else []


def _placed(
    metrics: Metrics, name: str, points: Sequence[Sequence[float]], key: str
) -> Line | None:
    """The curve of another run, at the steps where this run had seen as much."""
    seen = metrics.column("tokens")
    if not len(seen) or not points:
        return None
    tokens = np.array([point[0] for point in points])
    losses = np.array([point[1] for point in points])
    steps = np.interp(tokens, seen.values, seen.steps, right=np.nan)
    within = np.isfinite(steps)
    steps, losses = steps[within], losses[within]
    steps, first = np.unique(np.round(steps), return_index=True)
    return Line(name, f"{key} of {name}", steps, losses[first], smoothed=False)


def _sentence(mine: float | None, earlier: Sequence[RunRecord]) -> str:
    losses = [one.eval_loss for one in earlier if one.eval_loss is not None]
    count = f"{len(losses)} earlier {'run' if len(losses) == 1 else 'runs'}"
    if mine is None or not losses:
        return "Earlier runs of the same kind on the same data:"
    better = sum(mine < loss - _TIE for loss in losses)
    middle, low, high = float(np.median(losses)), min(losses), max(losses)
    return (
        f"The held-out loss {q.decimal(mine)} is lower than that of {better} of "
        f"{count} of the same kind on the same data; the median is "
        f"{q.decimal(middle)} ({q.decimal(low)} to {q.decimal(high)})."
    )


def _last(metrics: Metrics) -> float | None:
    losses = metrics.values("eval_loss")
    return float(losses[-1]) if len(losses) else None


def _row(
    name: str, metrics: Metrics, plan: Mapping[str, Any], loss: float | None
) -> tuple[str, ...]:
    steps = q.known(metrics.last.get("step"))
    return (
        name,
        "",
        q.count(steps),
        q.count(metrics.last.get("tokens")),
        _rate(plan.get("learning_rate")),
        q.decimal(loss),
        "",
    )


def _rate(value: object) -> str:
    number = q.known(value)
    return q.UNKNOWN if number is None else f"{number:g}"


def _difference(loss: float | None, mine: float | None) -> str:
    if loss is None or mine is None:
        return q.UNKNOWN
    return f"{loss - mine:+.4f}"
