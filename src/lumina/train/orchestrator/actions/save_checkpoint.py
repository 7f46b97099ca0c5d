"""The action of saving before it is too late."""

from __future__ import annotations

from lumina.plan.plan import Plan
from lumina.train.health.watching import Finding
from lumina.train.orchestrator.actions.action import Action, register_action
from lumina.train.rules.rule import Now, Proposal


@register_action
class SaveCheckpoint(Action):
    """Write a checkpoint now, since the run may soon end without one."""

    name = "save_checkpoint"
    level = 1
    control = "checkpoint"

    def proposal(self, finding: Finding, now: Now, plan: Plan) -> Proposal | None:
        """Always the same."""
        return self.changed(finding, "now", "write a checkpoint")
