"""The transition of phases by convergence: the loss no longer falls."""

from __future__ import annotations

import math
from collections.abc import Mapping
from typing import Any

from lumina.plan.plan import Plan
from lumina.train.controls.phases import following
from lumina.train.rules.rule import Now, Proposal, Rule, register_rule


@register_rule
class PhaseConvergence(Rule):
    """Ends a phase when the training loss of a window is hardly below the one before.

    After the warm-up, the mean losses of two windows of steps that follow each other
    are compared. The fall from one to the other, with one standard error added for the
    noise of the steps, has to stay below the threshold, as a share of the loss. A phase
    that does not converge ends at its last step.

    Attributes:
        now: [count, sum, sum of squares] of the losses in the present window.
        before: [mean, variance of the mean] of the window before; empty at first.
    """

    name = "phase_convergence"
    changes = ("phase",)

    def __init__(self) -> None:
        self.settings: dict[str, float] = {}
        self.begin = 0
        self.next: str | None = None
        self.now = [0.0, 0.0, 0.0]
        self.before: list[float] = []

    @classmethod
    def wanted(cls, plan: Plan) -> str | None:
        """On in every phase that another follows, where convergence ends phases."""
        if plan.convergence and following(plan) is not None:
            return f"phase_transition is convergence, and {following(plan)} follows"
        return None

    @classmethod
    def made_for(cls, plan: Plan) -> PhaseConvergence:
        """With the window and the threshold of the Plan."""
        rule = cls()
        rule.settings = dict(plan.convergence)
        rule.begin = plan.phase_begin + plan.warmup_steps
        rule.next = following(plan)
        return rule

    def see(self, row: Mapping[str, Any]) -> None:
        """Take in the loss of a step after the warm-up."""
        loss = row["loss"]
        if row["step"] > self.begin and loss is not None and math.isfinite(loss):
            count, total, squares = self.now
            self.now = [count + 1, total + loss, squares + loss * loss]

    def propose(self, step: int, now: Now) -> Proposal | None:
        """At the end of a window, the next phase if the loss has hardly fallen."""
        count, total, squares = self.now
        if count < self.settings["window"] or self.next is None:
            return None
        mean = total / count
        noise = max(squares / count - mean * mean, 0.0) / max(count - 1, 1)
        earlier, self.before = self.before, [mean, noise]
        self.now = [0.0, 0.0, 0.0]
        if not earlier:
            return None
        fall = earlier[0] - mean
        error = math.sqrt(earlier[1] + noise)
        limit = self.settings["threshold"] * earlier[0]
        if fall + error >= limit:
            return None
        return Proposal(
            "phase",
            self.next,
            f"the mean loss of {count:.0f} steps fell from {earlier[0]:.4f} to "
            f"{mean:.4f}, less than {self.settings['threshold']:.2%} of it",
            evidence={"before": earlier[0], "now": mean, "standard_error": error},
            confidence=0.9,
            reversal="rollback",
        )

    def state(self) -> dict[str, Any]:
        """The windows."""
        return {"now": self.now, "before": self.before}

    def load(self, state: dict[str, Any]) -> None:
        """Go on in the middle of a window."""
        self.now, self.before = list(state["now"]), list(state["before"])
