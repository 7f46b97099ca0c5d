"""The action of forgetting the moments of the optimizer."""

from __future__ import annotations

from lumina.plan.plan import Plan
from lumina.train.health.watching import Finding
from lumina.train.orchestrator.actions.action import Action, register_action
from lumina.train.rules.rule import Now, Proposal


@register_action
class ResetMoments(Action):
    """The optimizer begins its moments anew (SPAM, Huang et al. 2025)."""

    name = "reset_moments"
    level = 2
    control = "optimizer_moments"
    reversal = "rollback"

    def proposal(self, finding: Finding, now: Now, plan: Plan) -> Proposal | None:
        """With a new warm-up of a cooldown, since the first steps know no scale yet."""
        steps = int(plan.orchestrator["cooldown_steps"])
        what = "reset the moments of the optimizer"
        return self.changed(finding, {"rewarm": steps}, what)
