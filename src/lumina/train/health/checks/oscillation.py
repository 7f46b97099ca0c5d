"""A loss that swings instead of falling."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from itertools import pairwise
from typing import Any

from lumina.plan.plan import Plan
from lumina.train.health.check import Alarm, Check, mean, number, register_check
from lumina.train.health.window import after_warm_up, line, window_of


@register_check
class Oscillation(Check):
    """Swings of the loss about its trend that are larger than its noise, and ordered.

    The noise of batches has no memory: the loss of a step says nothing of the next
    one's. The ratio of von Neumann (1941), the mean square of the differences of
    neighbours over twice the variance, is then near 1. It is near 0 in a slow swing
    and near 2 where the loss jumps up and down from step to step.
    """

    name = "oscillation"
    penalty = 15
    prior = 0.7
    slow, fast, least, growth, crossings = 0.4, 1.6, 0.03, 2.0, 3
    rule = (
        "in two windows in a row (12 steps and more), a loss that swings about its "
        "line: neighbours alike or opposed (a ratio of von Neumann under 0.4 or over "
        "1.6), at least 3 crossings of the line, by more than 3% of the loss and "
        "twice as far as in the calmest window after warm-up"
    )

    def __init__(self, plan: Plan) -> None:
        super().__init__(plan)
        self.window = window_of(plan, least=12)

    def see(self, row: Mapping[str, Any]) -> Alarm | None:
        """Judge a window whenever one is full."""
        loss, memory = number(row, "loss"), self.memory
        if loss is None or not after_warm_up(self.plan, row["step"]):
            return None
        losses = self.keep("losses", loss, self.window)
        if len(losses) < self.window:
            return None
        memory["losses"] = []
        ratio, size, crossings = swings(losses)
        calmest: float = memory.get("calmest", math.inf)
        ordered = not self.slow <= ratio <= self.fast and crossings >= self.crossings
        large = size > max(self.least, self.growth * calmest)
        if not (ordered and large):
            memory["times"] = 0
            memory["calmest"] = min(calmest, size)
            return None
        times = memory["times"] = memory.get("times", 0) + 1
        if times < 2:
            return None
        return Alarm(
            f"the loss swings by {size:.1%} about its trend, and by {calmest:.1%} in "
            "its calmest window",
            {"size": size, "calmest": calmest, "ratio": ratio},
            confidence=self.sure(size / max(self.least, self.growth * calmest)),
        )


def swings(losses: Sequence[float]) -> tuple[float, float, int]:
    """The ratio of von Neumann, the size of the swings, and crossings of the line.

    Args:
        losses: of a window, in their order.

    Returns:
        The ratio; the standard deviation about the line, as a share of the mean; how
        often the loss goes from well above the line to well below or back.
    """
    slope, _ = line(losses)
    middle, height = (len(losses) - 1) / 2, mean(losses)
    rest = [x - height - slope * (at - middle) for at, x in enumerate(losses)]
    variance = mean([x * x for x in rest])
    if variance <= 0:
        return 1.0, 0.0, 0
    steps = mean([(b - a) ** 2 for a, b in pairwise(rest)])
    deviation = math.sqrt(variance)
    sides = [x > 0 for x in rest if abs(x) > deviation / 2]
    crossings = sum(a != b for a, b in pairwise(sides))
    return steps / (2 * variance), deviation / max(abs(height), 1e-12), crossings
