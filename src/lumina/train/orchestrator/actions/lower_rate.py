"""The action of halving the learning rate."""

from __future__ import annotations

from lumina.plan.plan import Plan
from lumina.train.health.watching import Finding
from lumina.train.orchestrator.actions.action import Action, register_action
from lumina.train.rules.rule import Now, Proposal

FACTOR = 0.5

LEAST_SHARE = 1e-3
"""Share of the planned peak below which the rate is not lowered."""


@register_action
class LowerRate(Action):
    """Half the learning rate; the schedule goes on from there."""

    name = "lower_rate"
    level = 2
    control = "learning_rate"

    def proposal(self, finding: Finding, now: Now, plan: Plan) -> Proposal | None:
        """Half the present rate, unless it is at its bound or the schedule is at 0."""
        rate = now(self.control)
        lower = rate * FACTOR
        if lower <= LEAST_SHARE * plan.learning_rate:
            return None
        return self.changed(finding, lower, "half the learning rate")


@register_action
class TryLowerRate(LowerRate):
    """Half the learning rate where the loss is level, to see whether it falls again.

    A rate that is too high keeps the loss above a floor of noise. It has to be surer
    than against an instability, since the steps at a lower rate do not come back.
    """

    name = "try_lower_rate"
    level = 1
    reversal = "rollback"
