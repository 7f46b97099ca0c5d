"""The strong actions against a learning rate that is far too high."""

from __future__ import annotations

from lumina.plan.plan import Plan
from lumina.train.health.watching import Finding
from lumina.train.orchestrator.actions.action import Action, register_action
from lumina.train.orchestrator.actions.lower_rate import LEAST_SHARE
from lumina.train.rules.rule import Now, Proposal

FACTOR = 0.1


@register_action
class CutRate(Action):
    """A tenth of the learning rate; the schedule goes on from there."""

    name = "cut_rate"
    level = 3
    control = "learning_rate"
    reversal = "rollback"

    def proposal(self, finding: Finding, now: Now, plan: Plan) -> Proposal | None:
        """A tenth of the present rate, unless it is at its bound."""
        lower = now(self.control) * FACTOR
        if lower <= LEAST_SHARE * plan.learning_rate:
            return None
        return self.changed(finding, lower, "a tenth of the learning rate")


@register_action
class RestartLowerRate(Action):
    """Back to the earliest weights within reach, with a tenth of the rate.

    A rate that is far too high spoils the weights in a few steps, and a lower one takes
    long to repair them. The rows are innocent: they are trained on again, while the
    rate warms up.
    """

    name = "restart_lower_rate"
    level = 3
    control = "rollback"
    reversal = "rollback"
    restarts = True

    def proposal(self, finding: Finding, now: Now, plan: Plan) -> Proposal | None:
        """All the way back; the rate warms up again in a cooldown."""
        value = {
            "steps": plan.steps,
            "skip_data": False,
            "learning_rate_factor": FACTOR,
            "rewarm_steps": int(plan.orchestrator["cooldown_steps"]),
            "earliest": True,
        }
        what = f"begin again with {FACTOR:g} times the rate"
        return self.changed(finding, value, what)
