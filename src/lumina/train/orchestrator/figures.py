"""Changes that are about time or memory: what is measured, and what came of them."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from statistics import stdev
from typing import Any, NamedTuple

from lumina.quantities import share as in_percent
from lumina.train.health.check import median, number
from lumina.train.health.window import error_of_difference, level
from lumina.train.orchestrator.decision import Measured, Verdict

KEYS: dict[Measured, str] = {
    "loss": "loss",
    "seconds": "agreed_step_seconds",
    "memory": "agreed_memory_share",
}
"""What is measured -> the key of a row that has it, which all ranks see alike."""

BESIDE: tuple[Measured, ...] = ("seconds", "memory")
"""What is remembered beside losses."""

BEFORE = 20
"""Steps before a change with which those after it are compared."""

ENOUGH: dict[Measured, int] = {"seconds": 10, "memory": 3}
"""Figures before a change and after it without which they are not compared."""

STRETCH = 5
"""Steps of a stretch: a machine that has other work is slow for some steps in a row, so
that their times say less than as many that do not depend on each other."""

DEVIATIONS = 3.0
"""Standard errors of the difference of two medians that count."""

SHARE: dict[Measured, float] = {"seconds": 0.03, "memory": 0.01}
"""Share of the figure below which a difference does not count."""


class Compared(NamedTuple):
    """Two medians.

    Attributes:
        verdict: less time or memory is better.
        after: the median after the change.
        before: the median before it.
        text: a sentence.
    """

    verdict: Verdict
    after: float
    before: float
    text: str


def follow(memory: dict[str, Any], row: Mapping[str, Any], most: int) -> None:
    """Keep the figures of a row in what the policy remembers.

    Args:
        memory: of the policy.
        row: of metrics.jsonl.
        most: figures that are kept.
    """
    held = memory.setdefault("figures", {})
    for measure in BESIDE:
        if (figure := number(row, KEYS[measure])) is not None:
            held[measure] = [*held.get(measure, []), figure][-most:]


def compared(
    measures: Measured, before: Sequence[float], after: Sequence[float]
) -> Compared | None:
    """The figures after a change beside those before it; None where some are missing.

    Args:
        measures: what they are.
        before: of steps before the change.
        after: of steps after it, once it has settled.
    """
    if min(len(before), len(after)) < ENOUGH[measures]:
        return None
    spread = max(level(before).spread, level(after).spread)
    error = error_of_difference(spread, len(before), len(after))
    error = max(error, math.hypot(_error(before), _error(after)))
    now, then = median(after), median(before)
    margin = max(DEVIATIONS * error, SHARE[measures] * then)
    verdict: Verdict = "same"
    if now > then + margin and measures != "memory":  # which other things fill, too
        verdict = "worse"
    elif now < then - margin:
        verdict = "better"
    text = (
        f"a step takes {now * 1e3:.4g} ms, and took {then * 1e3:.4g} ms before "
        f"(differences above {margin * 1e3:.2g} ms count)"
        if measures == "seconds"
        else f"{in_percent(now)} of the memory is in use, and {in_percent(then)} were "
        f"before (differences above {in_percent(margin)} count)"
    )
    return Compared(verdict, now, then, text)


def _error(figures: Sequence[float]) -> float:
    """Standard error of a median, by how far the medians of stretches are apart.

    Args:
        figures: of steps in a row. Of fewer than two stretches it says nothing, 0.
    """
    count = len(figures) // STRETCH
    if count < 2:
        return 0.0
    stretches = [figures[STRETCH * i : STRETCH * (i + 1)] for i in range(count)]
    return stdev([median(some) for some in stretches]) / math.sqrt(count)
