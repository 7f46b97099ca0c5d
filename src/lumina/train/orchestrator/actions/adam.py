"""The actions of mending settings of Adam that steps suffer from."""

from __future__ import annotations

from lumina.plan.plan import Plan
from lumina.train.health.watching import Finding
from lumina.train.orchestrator.actions.action import Action, register_action
from lumina.train.rules.rule import Now, Proposal

USUAL_EPSILON, LEAST_EPSILON = 1e-8, 1e-15
"""What nearly all runs have, and what float32 still holds beside second moments."""

BELOW = 1e-2
"""The new epsilon is at most this share of the gradients."""

USUAL_BETA2 = 0.95
"""What language models are trained with (Brown et al. 2020; Touvron et al. 2023)."""


@register_action
class SmallerEpsilon(Action):
    """The usual epsilon, or a smaller one where gradients are small beside it, too."""

    name = "smaller_epsilon"
    level = 2
    control = "eps"

    def proposal(self, finding: Finding, now: Now, plan: Plan) -> Proposal | None:
        """A hundredth of the gradients, and 1e-8 at most."""
        size = finding.evidence.get("root_mean_square")
        if size is None:  # numbers leave the range of float16, which is another matter
            return None
        wanted = max(min(USUAL_EPSILON, BELOW * size), LEAST_EPSILON)
        if wanted >= now(self.control):
            return None
        return self.changed(finding, wanted, f"lower epsilon to {wanted:.3g}")


@register_action
class LongerSecondMoment(Action):
    """The usual decay rate of the second moment; both moments start over."""

    name = "longer_second_moment"
    level = 2
    control = "beta2"
    reversal = "rollback"

    def proposal(self, finding: Finding, now: Now, plan: Plan) -> Proposal | None:
        """The usual rate, and above the square of beta1, unless it is that large."""
        wanted = max(USUAL_BETA2, round(1 - (1 - plan.beta1**2) / 2, 6))
        if wanted <= now(self.control):
            return None
        return self.changed(finding, wanted, f"raise beta2 to {wanted:g}")
