"""The action of leaving a run alone."""

from __future__ import annotations

from lumina.plan.plan import Plan
from lumina.train.health.watching import Finding
from lumina.train.orchestrator.actions.action import Action, register_action
from lumina.train.orchestrator.decision import NOTHING
from lumina.train.rules.rule import Now, Proposal


@register_action
class Nothing(Action):
    """Wait: many anomalies heal by themselves."""

    name = NOTHING
    level = 0

    def proposal(self, finding: Finding, now: Now, plan: Plan) -> Proposal | None:
        """No change."""
        return None
