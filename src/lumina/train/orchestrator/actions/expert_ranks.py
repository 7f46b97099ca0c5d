"""Actions that move experts from one process to another; no result depends on them."""

from __future__ import annotations

from lumina.plan.expert_parallel import even_sizes
from lumina.plan.plan import Plan
from lumina.train.health.watching import Finding
from lumina.train.orchestrator.actions.action import Action, register_action
from lumina.train.rules.rule import Now, Proposal


@register_action
class RedistributeExperts(Action):
    """Experts placed anew, so that all processes receive about as many rows."""

    name = "redistribute_experts"
    level = 2
    control = "expert_placement_policy"
    measures = "memory"

    def proposal(self, finding: Finding, now: Now, plan: Plan) -> Proposal | None:
        """By their present usage; also where they were placed by an earlier one."""
        return self.changed(finding, "balanced", "place experts by their usage")


@register_action
class DivideExpertsFurther(Action):
    """Experts divided over more processes, of which each then holds fewer."""

    name = "divide_experts_further"
    level = 2
    control = "expert_parallel_size"
    measures = "memory"

    def proposal(self, finding: Finding, now: Now, plan: Plan) -> Proposal | None:
        """The next larger number that divides the experts and the processes."""
        assert plan.spec.moe is not None
        experts, present = plan.spec.moe.num_experts, int(now(self.control))
        sizes = even_sizes(experts, plan.world_size)
        size = next((size for size in sizes if size > present), None)
        if size is None:
            return None
        what = f"divide experts over {size} processes instead of {present}"
        return self.changed(finding, size, what)
