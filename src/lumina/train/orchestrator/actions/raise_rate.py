"""The action of raising the learning rate where the loss no longer falls."""

from __future__ import annotations

from lumina.plan.plan import Plan
from lumina.train.health.watching import Finding
from lumina.train.orchestrator.actions.action import Action, register_action
from lumina.train.rules.rule import Now, Proposal

FACTOR = 1.5

MOST_SHARE = 2.0
"""Share of the planned peak above which the rate is not raised."""


@register_action
class RaiseRate(Action):
    """Half as much again of the learning rate.

    It has to be as sure as what can never be taken back: the rate can be, but not what
    a rate that is too high does to the weights.
    """

    name = "raise_rate"
    level = 1
    control = "learning_rate"
    reversal = "never"

    def proposal(self, finding: Finding, now: Now, plan: Plan) -> Proposal | None:
        """1.5 times the present rate, unless that is beyond its bound."""
        rate = now(self.control)
        higher = rate * FACTOR
        if rate <= 0 or higher > MOST_SHARE * plan.learning_rate:
            return None
        return self.changed(finding, higher, "raise the learning rate by half")
