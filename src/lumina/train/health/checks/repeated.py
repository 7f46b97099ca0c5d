"""Batches that the model knows already, or that repeat themselves."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from lumina.plan.plan import Plan
from lumina.train.health.check import Alarm, Check, number, register_check
from lumina.train.health.window import level, window_of


@register_check
class RepeatedData(Check):
    """Losses far below the window of steps before.

    Text that repeats itself is predicted far better than any other, as is text that
    was seen a short while ago; both harm what was learned. A loss that falls because
    the model learns does not fall so far in one step.
    """

    name = "repeated_data"
    penalty = 10
    prior = 0.5
    deviations, share = 6.0, 0.3
    rule = (
        "a loss more than 6 robust standard deviations and more than 30% below the "
        "median of the window before; confidence 1 - 0.5 / n for the n-th such step "
        "of a window"
    )

    def __init__(self, plan: Plan) -> None:
        super().__init__(plan)
        self.window = window_of(plan)

    def see(self, row: Mapping[str, Any]) -> Alarm | None:
        """Compare with the window before, which such a loss does not enter."""
        loss, memory = number(row, "loss"), self.memory
        if loss is None:
            return None
        before: list[float] = memory.get("losses", [])
        low = False
        if len(before) == self.window:
            usual = level(before)
            low = -usual.above(loss) > self.deviations
            low = low and loss < (1 - self.share) * usual.middle
        count = sum(self.keep("low", int(low), self.window))
        if not low:
            self.keep("losses", loss, self.window)
            return None
        if count > self.window // 2:  # a new level
            memory.clear()
        return Alarm(
            f"the loss is {loss:.4f}, and {usual.middle:.4f} is usual: the batch "
            f"repeats itself, or was seen before ({count} such steps lately)",
            {"loss": loss, "median": usual.middle, "steps": count},
            confidence=self.sure(count),
        )
