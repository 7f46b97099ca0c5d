"""A group of tensors whose gradient stands out."""

from __future__ import annotations

import math
from collections.abc import Mapping
from typing import Any

from lumina.plan.plan import Plan
from lumina.train.health.check import Alarm, Check, number, register_check
from lumina.train.health.window import falls, level, window_of

BEGIN, END = "group.", ".gradient_norm"


@register_check
class GroupNormOutlier(Check):
    """One role of tensors with far larger gradients than it had.

    Instabilities begin in one place: in the embedding, in queries and keys, in the
    head. The norm of the whole gradient hides a small group. Norms are compared by
    their logarithms, and one that stands out does not enter the window of its group.

    A model that begins to learn something new has larger gradients in one place as
    well, and a loss that falls: such an alarm is told, and not sure enough to act on.
    Nor is one about a gradient that is small for all that: below half of the norm that
    the run clips to, it would pass through the next tighter clip as it is.
    """

    name = "group_norm_outlier"
    penalty = 10
    prior = 0.6
    deviations, times, in_a_row, least_spread = 6.0, 4.0, 3, 0.15
    harmless = 0.55
    reached, unclipped = 0.5, 1.0
    rule = (
        "the gradient norm of a role of tensors more than 6 robust standard deviations "
        "(of its logarithm) above the median of the window before, and more than 4 "
        "times as large, in 3 steps in a row. The confidence is 0.55 at most while the "
        "loss falls (the median of the second half of a window is 2 standard errors "
        "below that of the first), and where the norm is below half of "
        "`max_grad_norm` (below 0.5 in a run that does not clip)"
    )

    def __init__(self, plan: Plan) -> None:
        super().__init__(plan)
        self.window = window_of(plan)

    def changed(self, name: str, value: Any) -> None:
        """Learn the norm that gradients are clipped to now."""
        if name == "max_grad_norm":
            self.memory["clip"] = float(value)

    @property
    def _out_of_reach(self) -> float:
        """The norm below which the next tighter clip changes nothing."""
        clip = self.memory.get("clip", self.plan.max_grad_norm) or self.unclipped
        return float(self.reached * clip)

    def see(self, row: Mapping[str, Any]) -> Alarm | None:
        """Compare every group with its own window, and tell of the worst."""
        if (loss := number(row, "loss")) is not None:
            self.keep("losses", loss, self.window)
        found = [
            (excess, key[len(BEGIN) : -len(END)], evidence)
            for key in row
            if key.startswith(BEGIN) and key.endswith(END)
            for excess, evidence in self._excess(key, number(row, key))
        ]
        if not found:
            return None
        found.sort(key=lambda one: -one[0])
        excess, group, evidence = found[0]
        sure = self.sure(excess)
        small = evidence["norm"] < self._out_of_reach
        if small or falls(self.memory.get("losses", [])):
            sure = min(sure, self.harmless)
        others = ", ".join(name for _, name, _ in found[1:])
        return Alarm(
            f"the gradient norm of {group} is {evidence['norm']:.3g}, and usually "
            f"{evidence['median']:.3g}, in {evidence['steps']} steps in a row"
            + (f"; {others} too" if others else ""),
            evidence,
            confidence=sure,
        )

    def _excess(
        self, key: str, norm: float | None
    ) -> list[tuple[float, dict[str, float]]]:
        """The norm by its limit, with the figures, where it stands out long enough."""
        if norm is None or norm <= 0:
            return []
        memory = self.memory.setdefault(key, {"logs": [], "large": 0})
        logs: list[float] = memory["logs"]
        if len(logs) == self.window:
            middle, spread = level(logs)
            wide = self.deviations * max(spread, self.least_spread)
            limit = math.exp(middle + max(wide, math.log(self.times)))
            if norm > limit:
                memory["large"] += 1
                steps = memory["large"]
                if steps > self.window // 2:  # a new level
                    memory |= {"logs": [], "large": 0}
                if steps < self.in_a_row:
                    return []
                figures = {"norm": norm, "median": math.exp(middle), "steps": steps}
                return [(norm / limit, figures | {"limit": limit})]
        memory["large"] = 0
        logs.append(math.log(norm))
        del logs[: -self.window]
        return []
