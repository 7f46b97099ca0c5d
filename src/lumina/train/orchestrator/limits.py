"""The limits of what the orchestrator may do, as the Plan holds them."""

from __future__ import annotations

from dataclasses import dataclass, field

from lumina.errors import LuminaError
from lumina.plan.plan import Plan
from lumina.train.orchestrator.actions import ACTIONS, Action
from lumina.train.orchestrator.decision import Mode
from lumina.train.orchestrator.ladders import LATE, PATIENT
from lumina.train.rules.arbiter import needed_by, reversal_of
from lumina.train.rules.rule import Reversal

PAYS_OFF = 4
"""Cooldowns that have to be left for a change that does its good slowly."""


@dataclass(frozen=True)
class Limits:
    """What a run allows.

    Attributes:
        mode: "on", or "shadow" where decisions are only recorded.
        levels: the levels of actions that may be taken.
        needed: the least confidence by how far a change can be taken back.
        cooldown_steps: steps after a change in which nothing else is changed.
        cooldown_tokens: tokens, likewise.
        rollbacks: most times that the run goes back.
        without: actions that are not taken.
        branches: decisions that are measured against the run without them.
        report_every: steps from one report of the health to the next; 0: none.
    """

    mode: Mode
    cooldown_steps: int
    levels: tuple[int, ...] = (1, 2, 3, 4)
    needed: dict[Reversal, float] = field(default_factory=lambda: needed_by(None))
    cooldown_tokens: int = 0
    rollbacks: int = 3
    without: tuple[str, ...] = ()
    report_every: int = 0
    branches: int = 0

    @staticmethod
    def of(plan: Plan) -> Limits:
        """Those of a Plan with an orchestrator.

        Raises:
            LuminaError: E004 for an action that there is not.
        """
        held = dict(plan.orchestrator)
        held.pop("runs", None)
        without = tuple(held.pop("without", ()))
        for name in without:
            if name not in ACTIONS:
                raise LuminaError(
                    "E004",
                    f"adaptive_without names {name}, and there is no such action",
                    f"actions are {', '.join(sorted(ACTIONS))}",
                )
        confidence, levels = held.pop("confidence", None), held.pop("levels", None)
        return Limits(
            without=without,
            needed=needed_by(confidence),
            levels=(1, 2, 3, 4) if levels is None else tuple(levels),
            **held,
        )

    @property
    def settling(self) -> int:
        """Steps after a change that are not measured: half a cooldown."""
        return max(self.cooldown_steps // 2, 2)

    def pause(self, urgent: bool) -> tuple[int, int]:
        """Steps and tokens after a change in which nothing else is changed.

        Args:
            urgent: half of them, for what cannot wait.
        """
        if urgent:
            return self.settling, self.cooldown_tokens // 2
        return self.cooldown_steps, self.cooldown_tokens

    def objection(self, action: Action) -> str:
        """Why an action is never taken; empty where it may be."""
        if action.name in self.without:
            return "it is left out (adaptive_without)"
        if action.level and action.level not in self.levels:
            return f"level {action.level} is not among adaptive_levels"
        return ""

    def late(self, anomaly: str, action: Action, steps: int, step: int) -> str:
        """Why it is too late for an action; empty where it is not.

        A change is judged after two cooldowns, and has to pay off after that.

        Args:
            anomaly: that it is to help against.
            action: one of its ladder.
            steps: of the run.
            step: of the finding.
        """
        needed = min(PAYS_OFF * self.cooldown_steps, steps // 5)
        if anomaly not in PATIENT or action.name in LATE or steps - step >= needed:
            return ""
        return f"only {steps - step:,} steps are left, and it takes {needed:,}"

    def confidence_for(self, action: Action) -> float:
        """The least confidence with which an action is taken."""
        return self.needed[reversal_of(action.control, action.reversal)]
