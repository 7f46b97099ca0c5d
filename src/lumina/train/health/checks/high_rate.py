"""A learning rate that spoils the weights in the first steps."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from lumina.plan.plan import Plan
from lumina.train.health.check import Alarm, Check, median, number, register_check
from lumina.train.health.window import window_of

LATEST = 3
"""Steps whose medians are judged."""


@register_check
class HighRate(Check):
    """The model becomes worse than it was before its first step.

    Other checks compare with a window before, and a run whose rate is far too high has
    none that is sound: the loss rises in its first steps, then falls slowly from there,
    to what the frequencies of the tokens alone would give. So this one compares with
    the first step, whose loss and gradient are those of the weights as they were given.
    It looks on until the loss has clearly fallen below that.
    """

    name = "high_rate"
    penalty = 40
    prior = 0.8
    worse, steeper, needed, learned = 0.05, 1.5, 0.4, 0.9
    rule = (
        "by the medians of 3 steps, a loss more than 5% above that of the first step, "
        "a gradient norm more than 1.5 times that of the first step, and a product of "
        "the rise of the loss and that factor of more than 0.4 (a loss 10% higher with "
        "4 times the norm, or 20% higher with twice the norm); as long as no window's "
        "median loss was below 90% of the first loss"
    )

    def __init__(self, plan: Plan) -> None:
        super().__init__(plan)
        self.window = window_of(plan)

    def see(self, row: Mapping[str, Any]) -> Alarm | None:
        """Compare the last steps with the first."""
        memory = self.memory
        loss, norm = number(row, "loss"), number(row, "grad_norm")
        if memory.get("over") or loss is None or norm is None:
            return None
        if "first" not in memory:
            memory["first"] = [loss, norm]
            return None
        height, steepness = memory["first"]
        losses = self.keep("losses", loss, self.window)
        norms = self.keep("norms", norm, LATEST)
        if len(losses) == self.window and median(losses) < self.learned * height:
            memory.clear()
            memory["over"] = True
            return None
        if len(norms) < LATEST or min(height, steepness) <= 0:
            return None
        now, steep = median(losses[-LATEST:]), median(norms)
        rise, factor = now / height - 1, steep / steepness
        excess = rise * factor / self.needed
        if rise <= self.worse or factor <= self.steeper or excess <= 1:
            return None
        return Alarm(
            f"the loss is {now:.4f} after {height:.4f} in the first step, and the "
            f"gradient norm {steep:.3g} after {steepness:.3g}: the learning rate is "
            "far too high",
            {"first": height, "loss": now, "norm": steep, "first_norm": steepness},
            "error",
            self.sure(excess),
        )
