"""The health of a run: every check of `lumina.train.health`, and their score."""

from __future__ import annotations

import copy
from collections.abc import Mapping
from typing import Any, ClassVar

from lumina.plan.plan import Plan
from lumina.train.health.check import CHECKS, Check
from lumina.train.health.checks import gradients, loss, machine, progress, routing
from lumina.train.rules.rule import Note, Now, Proposal, Rule, register_rule

OWN = (loss, gradients, routing, machine, progress)
"""The files of Lumina's own checks; each registers them as it is imported."""

HOLDS = 50
"""Steps for which an alarm counts in the score after a check last raised it; the check
that raises it again within these steps is not told of again."""


@register_rule
class TrainingHealth(Rule):
    """Shows every row to the checks; tells of alarms and keeps the score.

    It changes nothing, and so sees what differs between ranks, too: time and memory.
    """

    name = "training_health"
    changes: ClassVar[tuple[str, ...]] = ()

    def __init__(self, checks: Mapping[str, Check]) -> None:
        self.checks = checks
        self.until: dict[str, int] = {}  # check -> the last step in which it counts
        self.step = 0
        self._notes: list[Note] = []

    @classmethod
    def wanted(cls, plan: Plan) -> str | None:
        """On where the Plan measures health."""
        return "health_checks is on" if plan.measures.get("health") else None

    @classmethod
    def made_for(cls, plan: Plan) -> TrainingHealth:
        """With all checks there are."""
        return cls({name: check(plan) for name, check in CHECKS.items()})

    def see(self, row: Mapping[str, Any]) -> None:
        """Show a row to every check."""
        step = self.step = int(row["step"])
        for name, check in self.checks.items():
            alarm = check.see(row)
            if alarm is None:
                continue
            if self.until.get(name, -1) < step:
                evidence = {"check": name, **alarm.evidence}
                self._notes.append(Note(step, alarm.text, evidence, alarm.severity))
            self.until[name] = step + HOLDS

    def propose(self, step: int, now: Now) -> Proposal | None:
        """Nothing: a person is told."""
        return None

    def notes(self) -> list[Note]:
        """The alarms since the last call."""
        found, self._notes = self._notes, []
        return found

    @property
    def score(self) -> int:
        """100, less the penalty of each check that has raised an alarm lately."""
        lately = [name for name, until in self.until.items() if until >= self.step]
        return max(0, 100 - sum(self.checks[name].penalty for name in lately))

    def metrics(self) -> dict[str, Any]:
        """The score."""
        return {"training_health_score": self.score}

    def state(self) -> dict[str, Any]:
        """What the checks remember, and which alarms hold."""
        memories = {name: check.memory for name, check in self.checks.items()}
        return copy.deepcopy({"memories": memories, "until": self.until})

    def load(self, state: dict[str, Any]) -> None:
        """Go on in the middle of all windows."""
        for name, memory in state["memories"].items():
            if name in self.checks:
                self.checks[name].memory = dict(memory)
        self.until = {n: x for n, x in state["until"].items() if n in self.checks}
