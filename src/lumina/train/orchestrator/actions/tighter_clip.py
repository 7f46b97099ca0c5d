"""The action of clipping gradients to a smaller norm."""

from __future__ import annotations

from lumina.plan.plan import Plan
from lumina.train.health.watching import Finding
from lumina.train.orchestrator.actions.action import Action, register_action
from lumina.train.rules.rule import Now, Proposal

FACTOR = 0.5

LEAST_SHARE = 0.1
"""Share of the planned norm below which it is not lowered."""

WITHOUT_CLIP = 1.0
"""The first norm of a run that does not clip."""


@register_action
class TighterClip(Action):
    """Half the norm that gradients are clipped to."""

    name = "tighter_clip"
    level = 1
    control = "max_grad_norm"

    def proposal(self, finding: Finding, now: Now, plan: Plan) -> Proposal | None:
        """Half the present norm, unless it is at its bound."""
        norm, planned = now(self.control), plan.max_grad_norm or WITHOUT_CLIP
        lower = norm * FACTOR if norm else WITHOUT_CLIP
        if lower < LEAST_SHARE * planned:
            return None
        return self.changed(finding, lower, f"clip gradients to {lower:g}")
