"""The action of evaluating more often."""

from __future__ import annotations

from lumina.plan.plan import Plan
from lumina.train.health.watching import Finding
from lumina.train.orchestrator.actions.action import Action, register_action
from lumina.train.rules.rule import Now, Proposal

LEAST_SHARE = 0.01
"""Share of the run's steps below which the distance of evaluations does not fall."""


@register_action
class EvaluateMore(Action):
    """Twice as many evaluations, where something follows from them.

    A run that has converged is in no trouble: only early stopping then has a use for
    knowing it sooner.
    """

    name = "evaluate_more"
    level = 1
    control = "eval_every"

    def proposal(self, finding: Finding, now: Now, plan: Plan) -> Proposal | None:
        """Half the steps from one to the next, where there are any on the way."""
        if finding.anomaly == "convergence" and not plan.early_stopping_patience:
            return None
        every = int(now(self.control))
        fewer = every // 2
        if fewer < max(LEAST_SHARE * plan.steps, 1):
            return None
        return self.changed(finding, fewer, f"evaluate every {fewer} steps")
