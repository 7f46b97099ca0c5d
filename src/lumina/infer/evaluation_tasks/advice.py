"""Whether a model is to be deployed in place of another, from what was compared."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass

from lumina.measure.significance import Difference, student_quantile

POWER = 0.8
"""Of the number of examples that would show an effect of the size that was seen."""


@dataclass(frozen=True)
class Compared:
    """One metric of one task.

    Attributes:
        task: its name.
        metric: its name.
        baseline: the figure, or the mean over several runs.
        candidate: likewise.
        higher_is_better: True or False; None: neither is better.
        difference: candidate less baseline, with its test.
        adjusted: Holm's chance, beside those of all other metrics here.
        verdict: "better", "worse", "no difference", or "-" where neither is better.
    """

    task: str
    metric: str
    baseline: float
    candidate: float
    higher_is_better: bool | None
    difference: Difference
    adjusted: float
    verdict: str


def advise(rows: Sequence[Compared], level: float) -> tuple[str, str]:
    """("deploy" or "iterate", why).

    The candidate is to be deployed where a metric is better and none is worse. Where
    nothing differs, the reason names the metric that the fewest examples would decide.

    Args:
        rows: the metrics.
        level: of confidence.
    """
    worse = [row for row in rows if row.verdict == "worse"]
    better = [row for row in rows if row.verdict == "better"]

    def names(some: Sequence[Compared]) -> str:
        return ", ".join(f"{row.task} {row.metric}" for row in some)

    if worse:
        also = f", though {names(better)} is better" if better else ""
        return "iterate", f"{names(worse)} is worse{also}"
    if better:
        return "deploy", f"{names(better)} is better, and nothing is worse"
    needed = [
        (examples_needed(row.difference.effect_size, level), row)
        for row in rows
        if row.verdict == "no difference" and row.difference.effect_size
    ]
    reason = f"no difference is sure at a level of {level:g}"
    if needed:
        count, row = min(needed, key=lambda one: one[0])
        reason += (
            f"; if {row.task} {row.metric} differs as much as it seems to, about "
            f"{count:,} pairs would show it"
        )
    return "iterate", reason


def examples_needed(effect: float | None, level: float) -> int:
    """Pairs that show an effect of a size with a chance of 80%.

    (z of the level + z of the power, over the effect) squared: Cohen, 1988, 2.4.

    Args:
        effect: in standard deviations of the pairs' differences, not 0.
        level: of confidence.
    """
    assert effect
    normal = 1e9  # degrees of freedom
    reach = student_quantile(level, normal) + student_quantile(2 * POWER - 1, normal)
    return math.ceil((reach / effect) ** 2)
