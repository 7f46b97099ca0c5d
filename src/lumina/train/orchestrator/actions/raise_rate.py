"""The action of raising the learning rate where the loss no longer falls."""

from __future__ import annotations

from lumina.plan.plan import Plan
from lumina.train.health.watching import Finding
from lumina.train.orchestrator.actions.action import Action, register_action
from lumina.train.rules.rule import Now, Proposal

FACTORS = ((0.97, 1.6), (0.93, 1.5), (0.0, 1.4))
"""(confidence of the finding from which it is taken, factor on the rate)."""

MOST_SHARE = 2.0
"""Share of the planned peak above which the rate is not raised."""


@register_action
class RaiseRate(Action):
    """Somewhat more of the learning rate: the surer the finding, the more.

    It has to be as sure as what can never be taken back: the rate can be, but not what
    a rate that is too high does to the weights.
    """

    name = "raise_rate"
    level = 1
    control = "learning_rate"
    reversal = "never"

    def proposal(self, finding: Finding, now: Now, plan: Plan) -> Proposal | None:
        """1.4, 1.5 or 1.6 times the present rate, unless that is beyond its bound."""
        rate = now(self.control)
        factor = next(by for least, by in FACTORS if finding.confidence >= least)
        if rate <= 0 or rate * factor > MOST_SHARE * plan.learning_rate:
            return None
        what = f"raise the learning rate to {factor:g} times"
        return self.changed(finding, rate * factor, what)
