"""The actions of raising the learning rate."""

from __future__ import annotations

from lumina.plan.plan import Plan
from lumina.train.health.watching import Finding
from lumina.train.orchestrator.actions.action import Action, register_action
from lumina.train.rules.rule import Now, Proposal

FACTORS = ((0.97, 1.6), (0.93, 1.5), (0.0, 1.4))
"""(confidence of the finding from which it is taken, factor on the rate)."""

MOST_SHARE = 2.0
"""Share of the planned peak above which the rate is not raised."""

MOST_FACTOR = 10.0
"""What the rate is multiplied by at most where it is far too low."""


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


@register_action
class RaiseRateFar(Action):
    """As much of the learning rate as the finding says is missing.

    What a rate that is too low has done to the weights in a few steps does no harm, so
    that the run goes on from there, and its schedule with it.
    """

    name = "raise_rate_far"
    level = 3
    control = "learning_rate"
    reversal = "never"

    def proposal(self, finding: Finding, now: Now, plan: Plan) -> Proposal | None:
        """The present rate times the factor of the finding, up to ten times."""
        factor = min(finding.evidence.get("factor", 1.0), MOST_FACTOR)
        rate = now(self.control)
        if factor <= 1 or rate <= 0 or rate * factor > 1:
            return None
        what = f"raise the learning rate to {factor:.3g} times"
        return self.changed(finding, rate * factor, what)
