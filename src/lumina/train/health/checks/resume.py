"""A loss that is another one after a resume."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from lumina.train.health.check import Alarm, Check, median, number, register_check
from lumina.train.health.window import error_of_difference, level


@register_check
class ResumeDiscontinuity(Check):
    """The losses of the first steps of a process, beside those of the one before.

    The first rows of a process have no `agreed_step_seconds`, so that a resume is
    seen in the rows themselves.
    """

    name = "resume_discontinuity"
    penalty = 20
    window, first, share, errors = 20, 10, 0.05, 5.0
    rule = (
        "the median loss of the first 10 steps after a resume more than 5% and more "
        "than 5 standard errors away from that of the 20 steps before it"
    )

    def see(self, row: Mapping[str, Any]) -> Alarm | None:
        """Put the losses of a new process apart, until there are enough of them."""
        loss, memory = number(row, "loss"), self.memory
        fresh = row.get("agreed_step_seconds") is None
        begins = fresh and not memory.get("fresh", False)
        memory["fresh"] = fresh
        if begins and len(memory.get("losses", [])) == self.window:
            memory["after"] = []
        if loss is None:
            return None
        after: list[float] | None = memory.get("after")
        if after is None:
            self.keep("losses", loss, self.window)
            return None
        after.append(loss)
        if len(after) < self.first:
            return None
        before = level(memory["losses"])
        del memory["after"]
        memory["losses"] = (memory["losses"] + after)[-self.window :]
        now = median(after)
        error = error_of_difference(before.spread, self.window, self.first)
        needed = max(self.share * before.middle, self.errors * error)
        if abs(now - before.middle) <= needed:
            return None
        return Alarm(
            f"the median loss is {now:.4f} after the resume, and was "
            f"{before.middle:.4f} before it: the run has not gone on where it was",
            {"before": before.middle, "now": now},
            confidence=self.sure(abs(now - before.middle) / needed),
        )
