"""The actions of giving routed layers one expert more, or one fewer."""

from __future__ import annotations

from lumina.plan.plan import Plan
from lumina.state.expert_surgery import NOISE
from lumina.train.health.watching import Finding
from lumina.train.orchestrator.actions.action import Action, register_action
from lumina.train.rules.rule import Now, Proposal

MOST_SHARE = 1.5
"""Most experts, as a share of those of the Plan."""


@register_action
class AddExpert(Action):
    """One more expert, a copy of the busiest."""

    name = "add_expert"
    level = 2
    control = "add_expert"
    reversal = "rollback"

    def proposal(self, finding: Finding, now: Now, plan: Plan) -> Proposal | None:
        """Up to half as many again as planned."""
        assert plan.spec.moe is not None
        if now(self.control) + 1 > MOST_SHARE * plan.spec.moe.num_experts:
            return None
        value = {"how": "busiest", "noise": NOISE}
        return self.changed(finding, value, "add an expert, made from the busiest")


@register_action
class PruneExpert(Action):
    """The least loaded expert of each routed layer goes."""

    name = "prune_expert"
    level = 2
    control = "prune_expert"
    reversal = "rollback"

    def proposal(self, finding: Finding, now: Now, plan: Plan) -> Proposal | None:
        """Down to half of those planned, and to what a token and a layer need."""
        moe = plan.spec.moe
        assert moe is not None
        least = max(moe.top_k, 2, moe.num_experts // 2)
        if now(self.control) <= least:
            return None
        return self.changed(finding, {}, "take out the least used expert")
