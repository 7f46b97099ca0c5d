"""Memory that fills up while there is still time to do something about it."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from lumina.plan.plan import Plan
from lumina.quantities import share as in_percent
from lumina.train.health.check import Alarm, Check, mean, number, register_check

HIGH = 0.85
"""Share of the device's memory above which more use of it is a risk."""

FULL = 1.0

GROWTH = 0.005
"""Share of the memory by which its use has to grow within two windows."""


@register_check
class MemoryRisk(Check):
    """Memory above 85%, and growing.

    The first steps of a run, and those after a change of what it holds, take memory
    that later ones use again: a window is compared with the one before, so that a level
    use of memory raises nothing, however high it is.
    """

    name = "memory_risk"
    penalty = 5
    prior = 0.7
    window, settles = 10, 10
    rule = (
        "a mean of `agreed_memory_share` over 10 steps above 85% and by more than 0.5% "
        "of the memory above that of the 10 steps before, after the first 10; the "
        "confidence is 0.7 at 85% and 1 at 100%"
    )

    def __init__(self, plan: Plan) -> None:
        super().__init__(plan)
        self.reads_every = self.window

    def see(self, row: Mapping[str, Any]) -> Alarm | None:
        """Compare two windows whenever one is full."""
        used = number(row, "agreed_memory_share")
        if used is None:
            return None
        seen = self.memory["seen"] = self.memory.get("seen", 0) + 1
        if seen <= self.settles:
            return None
        some = self.keep("some", used, 2 * self.window)
        if len(some) < 2 * self.window or (seen - self.settles) % self.window:
            return None
        before, now = mean(some[: self.window]), mean(some[self.window :])
        growth = now - before
        if now <= HIGH or growth <= GROWTH:
            return None
        risk = min((now - HIGH) / (FULL - HIGH), 1.0)
        return Alarm(
            f"{in_percent(now)} of the device's memory is in use, "
            f"{in_percent(before)} {self.window} steps before",
            {"used": now, "growth_per_step": growth / self.window, "risk": risk},
            confidence=self.prior + (1 - self.prior) * risk,
        )
