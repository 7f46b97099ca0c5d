"""Actions that leave the learning rate to its schedule, or let it fall beside it."""

from __future__ import annotations

from lumina.plan.plan import Plan
from lumina.plan.schedule import learning_rate_at
from lumina.train.health.watching import Finding
from lumina.train.orchestrator.actions.action import Action, register_action
from lumina.train.rules.rule import Now, Proposal

LAST_SHARE = 0.1
"""Share of the present rate that a final reduction ends at."""

HIGH = 0.5
"""Share of the peak above which a schedule has not fallen, now and at the last step."""

LEAST_STEPS = 2


@register_action
class FinalReduction(Action):
    """The rate falls evenly over the rest of the run, where its schedule hardly does.

    The loss of a run at a constant rate stays above what its weights could reach, by
    the noise of the steps; it comes down as the rate does.
    """

    name = "final_reduction"
    level = 1
    control = "rate_glide"
    reversal = "rollback"

    def proposal(self, finding: Finding, now: Now, plan: Plan) -> Proposal | None:
        """Down to a tenth at the last step."""
        left = plan.steps - finding.step - 1  # it begins after the next step
        last = learning_rate_at(plan, max(plan.steps - 1, 0))
        falls = now(self.control)["share"] < 1 or last <= HIGH * plan.learning_rate
        if left < LEAST_STEPS or falls:
            return None
        what = f"let the learning rate fall to a tenth over the {left:,} steps left"
        return self.changed(finding, {"steps": left, "share": LAST_SHARE}, what)


@register_action
class ResetRate(Action):
    """The rate is that of the schedule again, after it was lowered for some trouble.

    It has to be as sure as a higher rate, which it is.
    """

    name = "reset_rate"
    level = 2
    control = "learning_rate"
    reversal = "never"

    def proposal(self, finding: Finding, now: Now, plan: Plan) -> Proposal | None:
        """Nothing where the rate is not below its schedule."""
        scheduled = learning_rate_at(plan, finding.step)
        if now(self.control) >= (1 - 1e-6) * scheduled:
            return None
        return self.changed(finding, scheduled, "give the rate back to its schedule")
