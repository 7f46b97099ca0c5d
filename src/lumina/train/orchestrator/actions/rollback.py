"""The actions of going back past the rows that did harm."""

from __future__ import annotations

from typing import ClassVar

from lumina.plan.plan import Plan
from lumina.train.health.watching import Finding
from lumina.train.orchestrator.actions.action import Action, register_action
from lumina.train.rules.rule import Now, Proposal

COOLDOWNS = 10
"""How far back a rollback goes at most, in cooldowns. The milder actions that come
first take some, and the snapshot has to be from before the trouble."""


class _GoBack(Action):
    """Weights, moments and schedule of an earlier step; the rows since are skipped.

    Attributes:
        factor: what the learning rate is multiplied by from there.
    """

    level = 3
    control = "rollback"
    reversal = "rollback"
    factor: ClassVar[float]

    def proposal(self, finding: Finding, now: Now, plan: Plan) -> Proposal | None:
        """Some cooldowns back (PaLM, Chowdhery et al. 2022).

        Of what lies within them the newest is taken that is known to be good.
        """
        steps = COOLDOWNS * int(plan.orchestrator["cooldown_steps"])
        value = {
            "steps": steps, "skip_data": True, "learning_rate_factor": self.factor,
        }  # fmt: skip
        how = "" if self.factor == 1 else f" with {self.factor:g} times the rate"
        return self.changed(finding, value, f"go back by up to {steps} steps{how}")


@register_action
class Rollback(_GoBack):
    """Back, past the rows, with the rate as it was."""

    name = "rollback"
    factor = 1.0


@register_action
class RollbackLowerRate(_GoBack):
    """Back, past the rows, with half the rate."""

    name = "rollback_lower_rate"
    factor = 0.5
