"""Memory that fills up, and steps that become slower or wait for data."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from lumina.plan.plan import Plan
from lumina.quantities import share as in_percent
from lumina.train.health.check import Alarm, Check, mean, median, number, register_check
from lumina.train.health.window import line, window_of

FULL = 0.97
"""Share of the device's memory that is nearly all of it."""


@register_check
class MemoryPressure(Check):
    """Memory that is nearly full."""

    name = "memory_pressure"
    penalty = 15
    prior = 0.9
    rule = "more than 97% of the devices' memory in use (`agreed_memory_share`)"

    def see(self, row: Mapping[str, Any]) -> Alarm | None:
        """Compare with what there is."""
        used = number(row, "agreed_memory_share")
        if used is None or used <= FULL:
            return None
        return Alarm(
            f"{in_percent(used)} of the device's memory is in use",
            {"used": used},
            confidence=self.sure((1 - FULL) / max(1 - used, 1e-3)),
        )


@register_check
class MemoryLeak(Check):
    """Memory that will be full at its present growth.

    The line goes through means of stretches of the run, at most the last 200 steps.
    """

    name = "memory_leak"
    penalty = 15
    horizon, points, most, straight, growth = 1000, 20, 10, 0.9, 0.005
    rule = (
        "a line through 20 means of `agreed_memory_share` (each of 10 steps, in short "
        "runs of fewer; R^2 of 0.9 and more, a growth of more than 0.5% of the "
        "memory) that reaches 97% within 1000 steps, and before the end of the run"
    )

    def __init__(self, plan: Plan) -> None:
        super().__init__(plan)
        self.stride = min(max(plan.steps // (3 * self.points), 1), self.most)
        self.reads_every = self.stride

    def see(self, row: Mapping[str, Any]) -> Alarm | None:
        """A mean of a stretch, and a line through the last twenty of them."""
        used = number(row, "agreed_memory_share")
        if used is None or used > FULL:
            return None
        some = self.keep("some", used, self.stride)
        self.memory["seen"] = self.memory.get("seen", 0) + 1
        if self.memory["seen"] % self.stride:
            return None
        means = self.keep("means", mean(some), self.points)
        if len(means) < self.points:
            return None
        slope, fit = line(means)
        left = self.plan.steps - int(row["step"])
        ahead = min(self.horizon, max(left, 0))
        then = means[-1] + slope * ahead / self.stride
        # What rounding moves is no trend.
        if fit < self.straight or means[-1] - means[0] < self.growth or then < FULL:
            return None
        steps = (FULL - means[-1]) / slope * self.stride
        return Alarm(
            f"the memory in use grew from {in_percent(means[0])} to "
            f"{in_percent(means[-1])} of the device in {self.points * self.stride} "
            f"steps and at this rate is full in about {steps:,.0f}",
            {"used": means[-1], "growth_per_step": slope / self.stride, "steps": steps},
            confidence=fit,
        )


@register_check
class Performance(Check):
    """Fewer tokens in a second than the run is used to."""

    name = "performance"
    penalty = 10
    prior = 0.75
    slower, first, kept, again = 2.0, 5, 20, 2
    rule = (
        "the median time of a token over a window (`agreed_step_seconds`), after the "
        "first 5 steps, more than twice the median of the windows before, at least "
        "two of them, and in the next window again"
    )

    def __init__(self, plan: Plan) -> None:
        super().__init__(plan)
        self.window = self.reads_every = window_of(plan)

    def see(self, row: Mapping[str, Any]) -> Alarm | None:
        """Compare a window with those before, which a slow one does not enter."""
        memory = self.memory
        tokens, seconds = number(row, "tokens"), number(row, "agreed_step_seconds")
        of_step = (tokens or 0.0) - memory.get("tokens", 0.0)
        memory["tokens"] = tokens or 0.0
        seen = memory["seen"] = memory.get("seen", 0) + 1
        if seconds is None or of_step <= 0 or seen <= self.first:
            return None
        times = self.keep("times", seconds / of_step, self.window)
        if len(times) < self.window:
            return None
        memory["times"] = []
        now = median(times)
        before: list[float] = memory.setdefault("windows", [])
        usual = median(before) if before else now
        if now <= self.slower * usual or len(before) < 2:
            self.keep("windows", now, self.kept)
            memory["slow"] = 0
            return None
        slow = memory["slow"] = memory.get("slow", 0) + 1
        if slow < self.again:
            return None
        if slow > self.kept:  # this is what it is used to now
            memory["windows"] = []
        return Alarm(
            f"{1 / now:,.0f} tokens in a second of {self.window} steps, and "
            f"{1 / usual:,.0f} are usual",
            {"now": 1 / now, "usual": 1 / usual},
            confidence=self.sure(now / (self.slower * usual)),
        )


@register_check
class DataWait(Check):
    """Steps that wait for their data.

    Data that arrive late hold many steps up. A machine that was busy for a moment holds
    up one, which can make most of the time of a window: the longest waits do not count.
    """

    name = "data_wait"
    penalty = 10
    of_a_rank = True
    waiting, first, chance = 0.2, 20, 5
    rule = (
        "more than 20% of the time of a window spent waiting for data, after 20 steps, "
        "the fifth of the steps with the longest waits left out"
    )

    def __init__(self, plan: Plan) -> None:
        super().__init__(plan)
        self.window = self.reads_every = window_of(plan)

    def see(self, row: Mapping[str, Any]) -> Alarm | None:
        """Add up once in a window."""
        seconds, wait = number(row, "step_seconds"), number(row, "data_wait_seconds")
        if seconds is None or wait is None:
            return None
        seen = self.memory["seen"] = self.memory.get("seen", 0) + 1
        if seen <= self.first:
            return None
        times = self.keep("times", seconds, self.window)
        waits = self.keep("waits", wait, self.window)
        if (seen - self.first) % self.window:
            return None
        both = sorted(zip(waits, times, strict=True))
        both = both[: len(both) - len(both) // self.chance]
        part = sum(wait for wait, _ in both) / max(sum(time for _, time in both), 1e-9)
        if part <= self.waiting:
            return None
        return Alarm(
            f"steps wait for their data {in_percent(part)} of their time; raise "
            "--num-workers or --prefetch-factor",
            {"share": part},
            confidence=self.sure(part / self.waiting),
        )
