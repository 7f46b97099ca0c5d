"""Adaptive expert capacity: more places while many tokens are dropped, else fewer."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from lumina.plan.plan import Plan
from lumina.train.rules.rule import Now, Proposal, Rule, register_rule

WINDOW = 50
"""Steps whose mean drop rate is looked at."""

TOO_MANY, FEW = 0.05, 0.01
"""Drop rates above which capacity is raised, and below which it is lowered."""

RAISED, LOWERED = 1.25, 0.9
"""What the capacity factor is multiplied by."""

LEAST, MOST = 1.0, 2.8
"""Bounds of the factor: no place to spare, and the most the scale table gives. A run
that begins outside them is not moved against what its drop rate asks for."""


@register_rule
class AdaptiveCapacity(Rule):
    """Changes the capacity factor by the mean drop rate of a window of steps.

    Attributes:
        total: sum of the drop rates of the window so far.
        count: steps in it.
    """

    name = "expert_capacity"
    changes = ("capacity_factor",)

    def __init__(self) -> None:
        self.total = 0.0
        self.count = 0

    @classmethod
    def wanted(cls, plan: Plan) -> str | None:
        """On where overflow is adaptive."""
        moe = plan.spec.moe
        adaptive = moe is not None and moe.overflow == "adaptive"
        return "overflow is adaptive" if adaptive else None

    def see(self, row: Mapping[str, Any]) -> None:
        """Take in a step's drop rates, one of each routed layer."""
        dropped = row["moe.dropped_fraction"]
        self.total += sum(dropped) / len(dropped)
        self.count += 1

    def propose(self, step: int, now: Now) -> Proposal | None:
        """At the end of a window, the factor that its drop rate asks for."""
        if self.count < WINDOW:
            return None
        rate, factor = self.total / self.count, now("capacity_factor")
        self.total, self.count = 0.0, 0
        changed = factor
        if rate > TOO_MANY:
            changed = max(factor, min(factor * RAISED, MOST))
        elif rate < FEW:
            changed = min(factor, max(factor * LOWERED, LEAST))
        if changed == factor:
            return None
        return Proposal(
            "capacity_factor",
            round(changed, 4),
            f"{rate:.1%} of assignments were dropped in {WINDOW} steps",
            evidence={"drop_rate": rate},
        )

    def state(self) -> dict[str, Any]:
        """The window under way."""
        return {"total": self.total, "count": self.count}

    def load(self, state: dict[str, Any]) -> None:
        """Go on in the middle of a window."""
        self.total, self.count = state["total"], state["count"]
