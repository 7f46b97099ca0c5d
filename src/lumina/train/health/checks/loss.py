"""Spikes of the loss, and a loss that goes up for good."""

from __future__ import annotations

import math
from collections.abc import Mapping
from typing import Any, ClassVar

from lumina.plan.plan import Plan
from lumina.train.health.check import Alarm, Check, mean, median, number, register_check
from lumina.train.health.window import error_of_difference, level, window_of

IN_A_ROW = 3
"""Steps in a row that make a spike more than one bad batch."""

ENTERS = 3.0
"""A loss more than this many standard deviations above the window stays out of it."""


class Spike(Check):
    """Losses far above the window of steps before, which they do not enter.

    A spike of one or two steps heals by itself: the confidence then stays below what
    any action needs.
    """

    deviations: ClassVar[float]
    share: ClassVar[float]

    def __init__(self, plan: Plan) -> None:
        super().__init__(plan)
        self.window = window_of(plan)

    def see(self, row: Mapping[str, Any]) -> Alarm | None:
        """Compare with the window before."""
        loss = number(row, "loss")
        if loss is None:
            return None
        memory = self.memory
        before: list[float] = memory.get("losses", [])
        if len(before) < self.window:
            self.keep("losses", loss, self.window)
            return None
        usual = level(before)
        above = usual.above(loss)
        alarm = None
        if above > self.deviations and loss > (1 + self.share) * usual.middle:
            high = self.keep("high", above, self.window)
            alarm = self.judged(loss, usual.middle, high)
            if len(high) > self.window // 2:  # a new level is no spike
                memory.clear()
                return alarm
        else:
            memory["high"] = []
        if above <= ENTERS:
            self.keep("losses", loss, self.window)
        return alarm

    def judged(self, loss: float, middle: float, high: list[float]) -> Alarm | None:
        """What is said of a loss above the threshold.

        Args:
            loss: of the step.
            middle: the median of the window before.
            high: by how many standard deviations the losses of this spike are above.
        """
        excess = mean(high[-IN_A_ROW:]) / (1.5 * self.deviations)
        if len(high) < IN_A_ROW or excess < 1:
            return None
        return Alarm(
            f"the loss has been more than {self.deviations:.0f} standard deviations "
            f"above its usual {middle:.4f} for {len(high)} steps and is {loss:.4f}",
            {"loss": loss, "median": middle, "deviations": mean(high)},
            confidence=self.sure(excess),
        )


@register_check
class LossSpike(Spike):
    """A spike; also one that lasts for a single step, if it is very high."""

    name = "loss_spike"
    penalty = 10
    prior = 0.7
    deviations, share = 2.0, 0.05
    lone_deviations, lone_share, lone_confidence = 8.0, 0.3, 0.5
    rule = (
        "a loss more than 2 robust standard deviations (1.4826 x the median "
        "deviation, more in a small window) and more than 5% above the median of the "
        "window before, in 3 steps in a row and by 3 deviations on average; with "
        "little confidence, one step more than 8 deviations and 30% above. A window "
        "is a sixth of the run, 10 to 50 steps"
    )

    def judged(self, loss: float, middle: float, high: list[float]) -> Alarm | None:
        """As any spike; a single step that is very high is reported, too."""
        alarm = super().judged(loss, middle, high)
        lone = high[-1] > self.lone_deviations and loss > (1 + self.lone_share) * middle
        if alarm is not None or not lone:
            return alarm
        return Alarm(
            f"the loss jumped to {loss:.4f}; its median before is {middle:.4f}",
            {"loss": loss, "median": middle, "deviations": high[-1]},
            confidence=self.lone_confidence,
        )


@register_check
class SevereLossSpike(Spike):
    """A spike that is higher, and so no matter of chance."""

    name = "severe_loss_spike"
    penalty = 20
    prior = 0.9
    deviations, share = 3.0, 0.15
    rule = (
        "a loss more than 3 robust standard deviations and more than 15% above the "
        "median of the window before, in 3 steps in a row and by 4.5 deviations on "
        "average"
    )


@register_check
class Divergence(Check):
    """The loss rises and stays up."""

    name = "divergence"
    penalty = 40
    prior = 0.7
    rise, errors = 0.1, 5.0
    rule = (
        "the median loss of a short window (a third of a window, 5 steps and more) "
        "more than 10% and more than 5 standard errors above the lowest median of a "
        "window so far, for as many steps in a row as a short window has"
    )

    def __init__(self, plan: Plan) -> None:
        super().__init__(plan)
        self.window = window_of(plan)
        self.short = max(self.window // 3, 5)

    def see(self, row: Mapping[str, Any]) -> Alarm | None:
        """Compare the median of the short window with the lowest of a window."""
        loss, memory = number(row, "loss"), self.memory
        if loss is None:
            return None
        losses = self.keep("losses", loss, self.window)
        if len(losses) < self.window:
            return None
        now = level(losses)
        if now.middle < memory.get("lowest", math.inf):
            memory["lowest"], memory["spread"] = now
        lowest = memory["lowest"]
        latest = median(losses[-self.short :])
        error = error_of_difference(memory["spread"], self.short, self.window)
        needed = max(self.rise * lowest, self.errors * error)
        if latest - lowest <= needed:
            memory["times"] = 0
            return None
        times = memory["times"] = memory.get("times", 0) + 1
        if times < self.short:
            return None
        return Alarm(
            f"the median loss rose from {lowest:.4f} to {latest:.4f} and has been that "
            f"high for {times} steps",
            {"median": latest, "lowest": lowest, "steps": times},
            "error",
            self.sure((latest - lowest) / needed),
        )
