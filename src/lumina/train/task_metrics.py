"""What the heads of several tasks did in a step, as keys of a metrics row."""

from __future__ import annotations

from typing import Any

from torch import Tensor

from lumina.model.spec import TaskSpec


def task_metrics(statistics: Tensor, tasks: TaskSpec) -> dict[str, Any]:
    """Of each task: its mean loss, its share of the counted tokens, and its weight.

    A task without a token in the step has no loss; without weights there is none.

    Args:
        statistics: [tasks, 3], see `lumina.model.objective.multi_task.TASK_STATISTICS`.
    """
    total = max(float(statistics[:, 1].sum()), 1.0)
    row: dict[str, Any] = {}
    for name, values in zip(tasks.names, statistics.tolist(), strict=True):
        loss, tokens, weight = values
        row[f"task.{name}.loss"] = loss / tokens if tokens else None
        row[f"task.{name}.tokens"] = tokens / total
        if tasks.weighted:
            row[f"task.{name}.weight"] = weight
    return row
