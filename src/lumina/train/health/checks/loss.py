"""Spikes of the loss, and a loss that goes up for good."""

from __future__ import annotations

import math
from collections.abc import Mapping
from typing import Any

from lumina.train.health.check import Alarm, Check, median, number, register_check

WINDOW = 50
NORMAL = 1.4826
"""Median deviation to standard deviation, of normally distributed values."""


@register_check
class LossSpike(Check):
    """One step far above those before it."""

    name = "loss_spike"
    penalty = 10
    deviations, share = 8.0, 0.3
    rule = (
        "a loss more than 8 robust standard deviations (1.4826 x the median deviation) "
        "and more than 30% above the median of the 50 steps before it, after 50 steps"
    )

    def see(self, row: Mapping[str, Any]) -> Alarm | None:
        """Compare with the window before, which a spike does not enter."""
        loss = number(row, "loss")
        if loss is None:
            return None
        before: list[float] = self.memory.get("losses", [])
        if len(before) == WINDOW:
            middle = median(before)
            spread = NORMAL * median([abs(x - middle) for x in before])
            above = loss - middle
            if above > max(self.deviations * spread, self.share * middle):
                # A new level is no spike: after some, the window is begun anew.
                self.memory["spikes"] = self.memory.get("spikes", 0) + 1
                if self.memory["spikes"] > 5:
                    self.memory.clear()
                least = max(self.deviations * spread, self.share * middle)
                return Alarm(
                    f"the loss jumped to {loss:.4f}; the median of the {WINDOW} steps "
                    f"before is {middle:.4f}",
                    {"loss": loss, "median": middle, "deviation": spread},
                    confidence=self.sure(above / least),
                )
        self.memory["spikes"] = 0
        self.keep("losses", loss, WINDOW)
        return None


@register_check
class Divergence(Check):
    """The loss rises and stays up, or is no longer finite."""

    name = "divergence"
    penalty = 40
    rise, skips = 0.25, 5
    rule = (
        "the median loss of 50 steps more than 25% above the lowest such median so "
        "far, or 5 steps in a row without a finite gradient"
    )

    def see(self, row: Mapping[str, Any]) -> Alarm | None:
        """Compare the median of the window with the lowest there was."""
        memory = self.memory
        skipped = int(row.get("skipped") or 0)
        more = skipped > memory.get("skipped", skipped)
        memory["skipped"] = skipped
        memory["in_a_row"] = memory.get("in_a_row", 0) + 1 if more else 0
        if memory["in_a_row"] >= self.skips:
            count = memory["in_a_row"]
            return Alarm(
                f"the gradient was not finite in {count} steps in a row",
                {"steps": count},
                confidence=self.sure(count / self.skips),
            )
        loss = number(row, "loss")
        if loss is None:
            return None
        losses = self.keep("losses", loss, WINDOW)
        if len(losses) < WINDOW:
            return None
        now = median(losses)
        lowest = memory["lowest"] = min(memory.get("lowest", math.inf), now)
        if now <= (1 + self.rise) * lowest:
            return None
        return Alarm(
            f"the median loss of {WINDOW} steps rose from {lowest:.4f} to {now:.4f}",
            {"median": now, "lowest": lowest},
            confidence=self.sure((now - lowest) / (self.rise * lowest)),
        )
