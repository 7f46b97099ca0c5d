"""The actions of computing more or fewer tokens in Mixture-of-Depths blocks."""

from __future__ import annotations

from lumina.plan.plan import Plan
from lumina.train.health.watching import Finding
from lumina.train.orchestrator.actions.action import register_action
from lumina.train.orchestrator.actions.scaled import Scaled
from lumina.train.rules.rule import Now, Proposal

FEW, MANY = 0.3, 0.8
"""Shares of computed tokens below which there are too few, and above which too many."""


@register_action
class MoreDepthCapacity(Scaled):
    """More tokens go through the blocks."""

    name = "more_depth_capacity"
    control = "mod_capacity"
    factor, most = 1.25, MANY
    words = "raise the share of computed tokens to"

    def proposal(self, finding: Finding, now: Now, plan: Plan) -> Proposal | None:
        """Only where the finding is that there are too few."""
        few = finding.evidence.get("ratio", 1.0) < FEW
        return super().proposal(finding, now, plan) if few else None


@register_action
class LessDepthCapacity(Scaled):
    """Fewer tokens go through the blocks."""

    name = "less_depth_capacity"
    control = "mod_capacity"
    factor, least, most = 0.8, FEW, 1.0
    words = "lower the share of computed tokens to"

    def proposal(self, finding: Finding, now: Now, plan: Plan) -> Proposal | None:
        """Only where the finding is that there are too many."""
        many = finding.evidence.get("ratio", 0.0) > MANY
        return super().proposal(finding, now, plan) if many else None
