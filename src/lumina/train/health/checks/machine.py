"""Memory that fills up, and steps that become slower or wait for data."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

from lumina.quantities import share as in_percent
from lumina.train.health.check import Alarm, Check, mean, median, number, register_check

FULL = 0.97
"""Share of the device's memory that is nearly all of it."""


@register_check
class MemoryPressure(Check):
    """Memory that is nearly full."""

    name = "memory_pressure"
    penalty = 15
    prior = 0.9
    of_a_rank = True
    rule = "more than 97% of the device's memory in use"

    def see(self, row: Mapping[str, Any]) -> Alarm | None:
        """Compare with what there is."""
        used = number(row, "memory_utilization")
        if used is None or used <= FULL:
            return None
        return Alarm(
            f"{in_percent(used)} of the device's memory is in use",
            {"used": used},
            confidence=self.sure((1 - FULL) / max(1 - used, 1e-3)),
        )


@register_check
class MemoryLeak(Check):
    """Memory that will be full at its present growth."""

    name = "memory_leak"
    penalty = 15
    of_a_rank = True
    horizon, points, stride, straight = 1000, 20, 10, 0.9
    rule = (
        "a line through the means of 20 times 10 steps of the share of memory in use "
        "(R^2 of 0.9 and more) that reaches 97% within 1000 steps, and before the end "
        "of the run"
    )

    def see(self, row: Mapping[str, Any]) -> Alarm | None:
        """A mean every ten rows, and a line through the last twenty of them."""
        used = number(row, "memory_utilization")
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
        if fit < self.straight or means[-1] - means[0] < 0.005 or then < FULL:
            return None
        steps = (FULL - means[-1]) / slope * self.stride
        return Alarm(
            f"the memory in use grew from {in_percent(means[0])} to "
            f"{in_percent(means[-1])} of the device in {self.points * self.stride} "
            f"steps and at this rate is full in about {steps:,.0f}",
            {"used": means[-1], "growth_per_step": slope / self.stride, "steps": steps},
            confidence=fit,
        )


def line(values: Sequence[float]) -> tuple[float, float]:
    """Slope for each place, and R^2, of the line of least squares through values."""
    count = len(values)
    middle, level = (count - 1) / 2, mean(values)
    over = sum((at - middle) * (x - level) for at, x in enumerate(values))
    places = sum((at - middle) ** 2 for at in range(count))
    total = sum((x - level) ** 2 for x in values)
    return over / places, (over * over / (places * total) if total > 0 else 0.0)


@register_check
class Performance(Check):
    """Steps that take longer than they did, or that wait for their data."""

    name = "performance"
    penalty = 10
    of_a_rank = True
    slower, waiting, window, first = 1.5, 0.2, 50, 20
    rule = (
        "the median time of 50 steps more than 1.5 times that of the 50 steps after "
        "the first 20, or more than 20% of the time of 50 steps spent waiting for data"
    )

    def see(self, row: Mapping[str, Any]) -> Alarm | None:
        """Compare once in a window."""
        seconds, wait = number(row, "step_seconds"), number(row, "data_wait_seconds")
        if seconds is None or wait is None:
            return None
        memory = self.memory
        seen = memory["seen"] = memory.get("seen", 0) + 1
        if seen <= self.first:
            return None
        times = self.keep("times", seconds, self.window)
        waits = self.keep("waits", wait, self.window)
        if (seen - self.first) % self.window:
            return None
        now = median(times)
        before = memory.setdefault("before", now)
        if now > self.slower * before:
            return Alarm(
                f"the median step takes {now:.3g} s, and took {before:.3g} s at first",
                {"seconds": now, "before": before},
                confidence=self.sure(now / (self.slower * before)),
            )
        part = sum(waits) / max(sum(times), 1e-9)
        if part > self.waiting:
            return Alarm(
                f"steps wait for their data {in_percent(part)} of their time; raise "
                "--num-workers or --prefetch-factor",
                {"share": part},
                confidence=self.sure(part / self.waiting),
            )
        return None
