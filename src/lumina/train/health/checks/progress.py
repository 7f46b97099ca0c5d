"""A loss that no longer falls: a plateau at a high rate, convergence at a low one."""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import replace
from typing import Any

from lumina.plan.plan import Plan
from lumina.train.health.check import Alarm, Check, number, register_check

LEVEL = 3e-3
"""A fall by less than this share of the loss, noise added, is none."""

WINDOWS = 5
"""Windows that a verdict looks back on."""


class LevelLoss(Check):
    """The loss hardly falls over five windows that follow each other.

    A window is a twentieth of the run, at least 200 steps. The fall from the mean of
    the first two windows to that of the last two, with a standard error added for the
    noise of the steps, has to be below `LEVEL` of the loss.
    """

    def __init__(self, plan: Plan) -> None:
        super().__init__(plan)
        self.window = max(200, plan.steps // 20)

    def applies(self, row: Mapping[str, Any]) -> bool:
        """Whether a level loss means this."""
        raise NotImplementedError

    def alarm(self, before: float, now: float) -> Alarm:
        """What is said of it."""
        raise NotImplementedError

    def see(self, row: Mapping[str, Any]) -> Alarm | None:
        """Add up a window, and compare it with the one before."""
        loss, memory = number(row, "loss"), self.memory
        if (
            loss is None
            or row["step"] <= self.plan.phase_begin + self.plan.warmup_steps
        ):
            return None
        if not self.applies(row):
            memory.clear()
            return None
        count, total, squares = memory.get("now", [0, 0.0, 0.0])
        memory["now"] = [count + 1, total + loss, squares + loss * loss]
        if count + 1 < self.window:
            return None
        mean = memory["now"][1] / self.window
        noise = max(memory["now"][2] / self.window - mean * mean, 0.0) / self.window
        memory["now"] = [0, 0.0, 0.0]
        windows = self.keep("windows", [mean, noise], WINDOWS)
        if len(windows) < WINDOWS:
            return None
        before, now = (
            sum(one[0] for one in pair) / 2 for pair in (windows[:2], windows[-2:])
        )
        error = math.sqrt(sum(one[1] for one in windows[:2] + windows[-2:])) / 2
        if before - now + error >= LEVEL * before:
            return None
        confidence = self.sure(LEVEL * before / max(before - now + error, 1e-30))
        return replace(self.alarm(before, now), confidence=confidence)


@register_check
class Plateau(LevelLoss):
    """A level loss while the learning rate is still high."""

    name = "plateau"
    penalty = 15
    rule = (
        "a mean loss that falls by less than 0.3%, a standard error of noise added, "
        "from the first two to the last two of five windows (each a twentieth of the "
        "run, at least 200 steps), with a learning rate above half of its peak"
    )

    def applies(self, row: Mapping[str, Any]) -> bool:
        """At more than half of the peak."""
        return (row.get("learning_rate") or 0.0) > 0.5 * self.plan.learning_rate

    def alarm(self, before: float, now: float) -> Alarm:
        """A warning."""
        return Alarm(
            f"the mean loss went from {before:.4f} to {now:.4f} in "
            f"{WINDOWS * self.window:,} steps: it no longer falls",
            {"before": before, "now": now},
        )


@register_check
class Convergence(LevelLoss):
    """A level loss at the end of the schedule: nothing to worry about."""

    name = "convergence"
    penalty = 0
    rule = "the same with a learning rate of half of its peak or less; for information"

    def applies(self, row: Mapping[str, Any]) -> bool:
        """At half of the peak or less."""
        return (row.get("learning_rate") or 0.0) <= 0.5 * self.plan.learning_rate

    def alarm(self, before: float, now: float) -> Alarm:
        """A remark."""
        return Alarm(
            f"the loss has converged: its mean went from {before:.4f} to {now:.4f} in "
            f"{WINDOWS * self.window:,} steps",
            {"before": before, "now": now},
            "info",
        )
