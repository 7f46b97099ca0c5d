"""The action of warming the learning rate up again."""

from __future__ import annotations

from lumina.plan.plan import Plan
from lumina.train.health.watching import Finding
from lumina.train.orchestrator.actions.action import Action, register_action
from lumina.train.rules.rule import Now, Proposal


@register_action
class RewarmRate(Action):
    """The rate falls to a tenth and rises again in a cooldown."""

    name = "rewarm"
    level = 2
    control = "rewarm"

    def proposal(self, finding: Finding, now: Now, plan: Plan) -> Proposal | None:
        """Nothing where the rate warms up again already."""
        if now(self.control)["share"] < 0.99:
            return None
        steps = int(plan.orchestrator["cooldown_steps"])
        what = f"warm the learning rate up again in {steps} steps"
        return self.changed(finding, {"steps": steps, "share": 0.1}, what)
