"""What is counted in every step beside the losses, and the metrics made of it."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from torch import Tensor

from lumina.model.by_source import source_metrics, source_shapes
from lumina.model.kinds.table import count_shapes, kinds_of
from lumina.model.objective.distilled import divergence_metrics, divergence_shapes
from lumina.model.token_count import token_counts
from lumina.plan.plan import Plan


def counted_shapes(plan: Plan) -> dict[str, tuple[int, ...]]:
    """Keys of the auxiliary sums that only count, with their shapes."""
    return (
        count_shapes(plan.spec)
        | source_shapes(plan.sources)
        | {count.key: count.shape for count in token_counts(plan.measures)}
        | divergence_shapes(plan.keeps == "outputs")
    )


def counted_metrics(plan: Plan, counted: Mapping[str, Tensor]) -> dict[str, Any]:
    """What the counts of a step say, as keys of a metrics row."""
    row: dict[str, Any] = {}
    for kind in kinds_of(plan.spec):
        row |= kind.metrics(plan, counted)
    for count in token_counts(plan.measures):
        if count.key in counted:
            row |= count.metrics(counted[count.key])
    return row | source_metrics(plan.sources, counted) | divergence_metrics(counted)
