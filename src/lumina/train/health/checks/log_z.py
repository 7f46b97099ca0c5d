"""A normaliser of the softmax that drifts away."""

from __future__ import annotations

import itertools
import math
from collections.abc import Mapping
from typing import Any

from lumina.plan.plan import Plan
from lumina.train.health.check import Alarm, Check, median, number, register_check
from lumina.train.health.window import (
    after_warm_up,
    error_of_difference,
    level,
    window_of,
)


@register_check
class LogZDrift(Check):
    """Log Z that moves on, window after window, far from where softmax is safe.

    The loss does not see it: logits that all rise or all fall together leave it as it
    is, until half precision loses the differences between them (Wortsman et al., 2023,
    arXiv:2309.14322, section 3.1.2; z-loss: Chowdhery et al., 2022, arXiv:2204.02311).

    A lone value that is far from those just before it does not enter the window.
    """

    name = "log_z_drift"
    penalty = 10
    prior = 0.6
    far, growth, errors, jump = 2.0, 1.1, 4.0, 10.0
    rule = (
        "after warm-up, the median of log Z over a window further from 0 than twice "
        "the log of the number of words, on the same side of 0 as in the window "
        "before, and from it by more than 10% and 4 standard errors"
    )

    def __init__(self, plan: Plan) -> None:
        super().__init__(plan)
        self.window = window_of(plan)
        self.limit = self.far * math.log(max(plan.spec.vocab_size, 2))

    def see(self, row: Mapping[str, Any]) -> Alarm | None:
        """Compare two windows that follow one another."""
        value = number(row, "log_z")
        if value is None or not after_warm_up(self.plan, row["step"]):
            return None
        if self._stands_out(value):
            return None
        values = self.keep("values", value, 2 * self.window)
        if len(values) < 2 * self.window:
            return None
        before, now = level(values[: self.window]), level(values[self.window :])
        error = error_of_difference(
            max(before.spread, now.spread), self.window, self.window
        )
        moved = abs(now.middle) - abs(before.middle)
        if (
            abs(now.middle) <= self.limit
            or now.middle * before.middle <= 0
            or moved <= (self.growth - 1) * abs(before.middle)
            or moved <= self.errors * error
        ):
            return None
        return Alarm(
            f"log Z has gone from {before.middle:.3g} to {now.middle:.3g} in "
            f"{self.window} steps: all logits drift together",
            {"before": before.middle, "now": now.middle, "limit": self.limit},
            confidence=self.sure(abs(now.middle) / self.limit),
        )

    def _stands_out(self, value: float) -> bool:
        """Whether a value is a stray: more than half a window of them is a new level.

        A drift has steps of an even size, and a stray one that is much larger.
        """
        values: list[float] = self.memory.get("values", [])
        if len(values) < self.window:
            return False
        pairs = itertools.pairwise(values)
        usual = median([abs(one - other) for one, other in pairs])
        usual = max(usual, 1e-3 * (1 + abs(value)))
        if abs(value - median(values[-5:])) <= self.jump * usual:
            self.memory["strays"] = 0
            return False
        strays = self.memory["strays"] = self.memory.get("strays", 0) + 1
        if strays <= self.window // 2:
            return True
        self.memory.clear()
        return False
