"""The action of making first weights as wide as they usually are."""

from __future__ import annotations

from lumina.plan.plan import Plan
from lumina.train.health.checks.narrow_first_weights import USUAL
from lumina.train.health.watching import Finding
from lumina.train.orchestrator.actions.action import Action, register_action
from lumina.train.rules.rule import Now, Proposal


@register_action
class WiderFirstWeights(Action):
    """The usual spread of first weights, in the first steps."""

    name = "wider_first_weights"
    level = 2
    control = "init_std"
    reversal = "rollback"

    def proposal(self, finding: Finding, now: Now, plan: Plan) -> Proposal | None:
        """0.02, unless they are as wide already."""
        if now(self.control) >= USUAL:
            return None
        what = f"scale all weights as if they had begun with a spread of {USUAL:g}"
        return self.changed(finding, USUAL, what)
