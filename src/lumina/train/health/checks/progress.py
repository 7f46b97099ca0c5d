"""A loss that no longer falls, that falls too slowly, or that has converged."""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import replace
from typing import Any

from lumina.plan.plan import Plan
from lumina.train.health.check import Alarm, Check, mean, number, register_check
from lumina.train.health.sums import PARTS, Sums
from lumina.train.health.window import after_warm_up

LEVEL = 3e-3
"""A fall by less than this share of the loss over a quarter of the run is none."""

DOUBLED = 1e-2
"""A fall by less than this share of the loss while the steps double is none."""

WINDOWS = 5
"""Windows that a verdict over a quarter of the run looks back on."""

LEAST = 30
"""Steps after warm-up before anything is said."""


def rate_is_high(plan: Plan, row: Mapping[str, Any]) -> bool:
    """Whether the learning rate is above half of its peak."""
    return (row.get("learning_rate") or 0.0) > 0.5 * plan.learning_rate


class LevelLoss(Check):
    """The loss hardly falls over five windows that follow each other.

    A window is a twentieth of the run, at least 10 steps. The fall from the mean of
    the first two windows to that of the last two, with a standard error added for the
    noise of the steps, has to be below `LEVEL` of the loss.
    """

    def __init__(self, plan: Plan) -> None:
        super().__init__(plan)
        self.window = self.reads_every = max(10, plan.steps // 20)

    def applies(self, row: Mapping[str, Any]) -> bool:
        """Whether a level loss means this."""
        raise NotImplementedError

    def alarm(self, before: float, now: float, steps: int) -> Alarm:
        """What is said of it."""
        raise NotImplementedError

    def see(self, row: Mapping[str, Any]) -> Alarm | None:
        """Add up a window, and compare it with the one before."""
        loss, memory = number(row, "loss"), self.memory
        if loss is None or not after_warm_up(self.plan, row["step"]):
            return None
        if not self.applies(row):
            memory.clear()
            return None
        count, total, squares = memory.get("now", [0, 0.0, 0.0])
        memory["now"] = [count + 1, total + loss, squares + loss * loss]
        if count + 1 < self.window:
            return None
        middle = memory["now"][1] / self.window
        noise = max(memory["now"][2] / self.window - middle * middle, 0.0) / self.window
        memory["now"] = [0, 0.0, 0.0]
        windows = self.keep("windows", [middle, noise], WINDOWS)
        if len(windows) < WINDOWS:
            return None
        before, now = (
            sum(one[0] for one in pair) / 2 for pair in (windows[:2], windows[-2:])
        )
        error = math.sqrt(sum(one[1] for one in windows[:2] + windows[-2:])) / 2
        if before - now + error >= LEVEL * before:
            return None
        confidence = self.sure(LEVEL * before / max(before - now + error, 1e-30))
        steps = WINDOWS * self.window
        return replace(self.alarm(before, now, steps), confidence=confidence)


@register_check
class Plateau(LevelLoss):
    """A level loss while the learning rate is still high.

    Beside a quarter of the run, the steps since the warm-up are looked at whenever
    their number has doubled: a loss that follows a power of the step falls by the same
    share of what is left each time, whatever the length of the run.
    """

    name = "plateau"
    penalty = 15
    prior = 0.75
    rule = (
        "with a learning rate above half of its peak, after warm-up: a mean loss that "
        "falls by less than 0.3%, a standard error of noise added, from the first two "
        "to the last two of five windows (each a twentieth of the run, at least 10 "
        "steps); or that does not fall by two standard errors, nor with three of them "
        "by 1%, while the steps since the warm-up double (from the second quarter of "
        "them to the second half)"
    )

    def applies(self, row: Mapping[str, Any]) -> bool:
        """At more than half of the peak."""
        return rate_is_high(self.plan, row)

    def alarm(self, before: float, now: float, steps: int) -> Alarm:
        """A warning."""
        return Alarm(
            f"the mean loss went from {before:.4f} to {now:.4f} in {steps:,} steps: it "
            "no longer falls",
            {"before": before, "now": now, "steps": steps},
        )

    def see(self, row: Mapping[str, Any]) -> Alarm | None:
        """As for any level loss, and whenever the steps have doubled."""
        alarm = super().see(row)
        loss = number(row, "loss")
        if loss is None or not after_warm_up(self.plan, row["step"]):
            return alarm
        if not self.applies(row):
            return alarm
        sums = Sums(self.memory)
        if not sums.add(loss) or alarm is not None:
            return alarm
        half = PARTS // 2  # parts there are now, beside the one that was just begun
        before, noise, _ = sums.over(half // 4, half // 2)
        now, more, steps = sums.over(half // 2, half)
        if 2 * steps < LEAST:
            return None
        error, fall = math.sqrt(noise + more), before - now
        most = fall + 3 * error
        if fall > 2 * error or most >= DOUBLED * before:
            return None
        confidence = self.sure(DOUBLED * before / max(most, 1e-30))
        return replace(self.alarm(before, now, 2 * steps), confidence=confidence)


@register_check
class SlowLearning(Check):
    """A loss that falls at an even pace and has hardly come down: the rate is low.

    At a fitting rate the loss falls fast at first, and slower and slower. Where the
    rate is much too low, the loss is still in the first, even part of that curve long
    after the warm-up.
    """

    name = "slow_learning"
    penalty = 10
    prior = 0.7
    learned, even, errors = 0.15, 0.6, 3.0
    rule = (
        "after warm-up, whenever the steps have doubled: a loss that has come down by "
        "less than 15% of what it was at first and still falls (by more than 3 "
        "standard errors), over the last half of the steps at least 0.6 times as fast "
        "as before"
    )

    def see(self, row: Mapping[str, Any]) -> Alarm | None:
        """Keep the first losses; add up those after the warm-up."""
        loss, memory = number(row, "loss"), self.memory
        if loss is None:
            return None
        first: list[float] = memory.setdefault("first", [])
        if len(first) < 3:
            first.append(loss)
        if not after_warm_up(self.plan, row["step"]):
            return None
        sums = Sums(memory)
        if not sums.add(loss):
            return None
        half = PARTS // 2
        quarter = half // 4
        begin, middle, end = (
            sums.over(at, at + quarter) for at in (0, 2 * quarter, half - quarter)
        )
        if 4 * begin[2] < LEAST:
            return None
        height = mean(first)
        learned = (height - end[0]) / height
        early = begin[0] - middle[0]
        late = (middle[0] - end[0]) * 2  # over one quarter of the steps, not two
        falls = begin[0] - end[0] > self.errors * math.sqrt(begin[1] + end[1])
        # Above where it began, the loss recovers from a rate that was too high.
        if not falls or not 0 < learned < self.learned or late < self.even * early:
            return None
        return Alarm(
            f"the loss has come down from {height:.4f} to {end[0]:.4f} only and falls "
            "at an even pace: the learning rate is too low",
            {"first": height, "loss": end[0], "share": learned},
            confidence=self.sure(self.learned / max(learned, 1e-3)),
        )


@register_check
class Convergence(LevelLoss):
    """A level loss at the end of the schedule: nothing to worry about."""

    name = "convergence"
    penalty = 0
    rule = (
        "a level loss over five windows, as for `plateau`, with a learning rate of "
        "half of its peak or less; for information"
    )

    def applies(self, row: Mapping[str, Any]) -> bool:
        """At half of the peak or less."""
        return not rate_is_high(self.plan, row)

    def alarm(self, before: float, now: float, steps: int) -> Alarm:
        """A remark."""
        return Alarm(
            f"the loss has converged: its mean went from {before:.4f} to {now:.4f} in "
            f"{steps:,} steps",
            {"before": before, "now": now},
            "info",
        )
