"""All checks together: what they find in rows and evaluations, the score, the phase."""

from __future__ import annotations

import copy
from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field, replace
from typing import Any, get_args

from lumina.plan.plan import Plan
from lumina.state.events import Severity
from lumina.train.health.check import CHECKS, Alarm, Check
from lumina.train.health.checks import (
    depths,
    experts,
    gradient_groups,
    gradients,
    held_out,
    high_rate,
    large_epsilon,
    log_z,
    loss,
    low_rate,
    machine,
    memory_risk,
    narrow_first_weights,
    nonfinite,
    numbers,
    oscillation,
    progress,
    ranks,
    repeated,
    resume,
    short_second_moment,
)
from lumina.train.health.outlook import Outlook
from lumina.train.health.phases import Phase, Phases

OWN = (
    nonfinite,
    high_rate,
    low_rate,
    narrow_first_weights,
    large_epsilon,
    short_second_moment,
    loss,
    gradients,
    gradient_groups,
    oscillation,
    progress,
    held_out,
    repeated,
    experts,
    depths,
    numbers,
    log_z,
    machine,
    memory_risk,
    ranks,
    resume,
)
"""The files of Lumina's own checks; each registers them as it is imported."""

SEVERITIES: tuple[Severity, ...] = get_args(Severity)
"""From the least to the greatest."""

HOLDS = 50
"""Steps for which an alarm counts in the score after a check last raised it."""


@dataclass(frozen=True)
class Finding:
    """That a check raised an alarm at a step.

    Attributes:
        anomaly: the name of the check.
        step: of the row or the evaluation.
        severity: of the event.
        confidence: how sure the check is, from 0 to 1.
        text: a sentence for a person, with the figures that led to it.
        evidence: the figures.
        new: the alarm did not hold yet in the step before, or was less severe.
        next_reading: steps after which the check has judged again; None: at the next
            evaluation.
    """

    anomaly: str
    step: int
    severity: Severity
    confidence: float
    text: str
    evidence: Mapping[str, float] = field(default_factory=dict)
    new: bool = True
    next_reading: int | None = 1


class Watching:
    """Shows rows and evaluations to checks, and gathers what they find.

    It is a function of what it has been shown, and of the Plan: two that see the same
    rows and evaluations in the same order find the same.

    Args:
        checks: those that watch.
        plan: of the run.

    Attributes:
        checks: by name.
        until: check -> the last step in which its alarm counts in the score.
        severity: check -> the greatest severity of the alarm that holds.
        last: check -> the step in which it last raised an alarm.
        outlook: predicts what becomes of the run.
        step: of the last row.
    """

    def __init__(self, checks: Iterable[Check], plan: Plan) -> None:
        self.checks = {check.name: check for check in checks}
        self.until: dict[str, int] = {}
        self.severity: dict[str, Severity] = {}
        self.step = 0
        self.last: dict[str, int] = {}
        self.outlook = Outlook(plan)
        self._phases = Phases(plan)

    @staticmethod
    def of(plan: Plan, *, ranks_alike: bool = False) -> Watching:
        """With all checks there are.

        Args:
            plan: of the run.
            ranks_alike: leave out the checks of figures that differ between ranks.
        """
        chosen = (
            check(plan)
            for check in CHECKS.values()
            if not (ranks_alike and check.of_a_rank)
        )
        return Watching(chosen, plan)

    def see(self, row: Mapping[str, Any]) -> list[Finding]:
        """Show a row to every check.

        Returns:
            A finding for every check that raises an alarm, also where its alarm holds
            already.
        """
        step = self.step = int(row["step"])
        self._phases.see(row)
        self.outlook.see(row)
        found = ((name, check.see(row)) for name, check in self.checks.items())
        return [
            replace(finding, next_reading=self.checks[finding.anomaly].reads_every)
            for finding in self._found(step, found)
        ]

    def see_evaluation(self, step: int, metrics: Mapping[str, Any]) -> list[Finding]:
        """Show an evaluation after `step` steps to every check; see `see`."""
        self.outlook.see_evaluation(step, metrics)
        found = (
            (name, check.see_evaluation(step, metrics))
            for name, check in self.checks.items()
        )
        return [
            replace(finding, next_reading=None) for finding in self._found(step, found)
        ]

    def changed(self, name: str, value: Any) -> None:
        """Show every check that a control has another value now."""
        for check in self.checks.values():
            check.changed(name, value)

    def _found(
        self, step: int, alarms: Iterable[tuple[str, Alarm | None]]
    ) -> list[Finding]:
        """The findings of one row or evaluation; notes which alarms hold."""
        findings = []
        for name, alarm in alarms:
            if alarm is None:
                continue
            finding = Finding(
                name,
                step,
                alarm.severity,
                alarm.confidence,
                alarm.text,
                dict(alarm.evidence),
                self._is_new(name, alarm, step),
            )
            self.until[name] = step + HOLDS
            self.last[name] = step
            findings.append(finding)
        return findings

    def _is_new(self, name: str, alarm: Alarm, step: int) -> bool:
        """Whether an alarm does not hold yet, or has become more severe."""
        held = self.severity.get(name, "debug")
        holds = self.until.get(name, -1) >= step
        if holds and SEVERITIES.index(alarm.severity) <= SEVERITIES.index(held):
            return False
        self.severity[name] = alarm.severity
        return True

    @property
    def holding(self) -> list[str]:
        """The checks that have raised an alarm lately."""
        return [name for name, until in self.until.items() if until >= self.step]

    @property
    def score(self) -> int:
        """100, less the penalty of each check that has raised an alarm lately."""
        return max(0, 100 - sum(self.checks[name].penalty for name in self.holding))

    @property
    def phase(self) -> Phase:
        """The phase that the run is in."""
        return self._phases.now

    def state(self) -> dict[str, Any]:
        """What the checks remember, which alarms hold, and the phase; plain JSON."""
        memories = {name: check.memory for name, check in self.checks.items()}
        return copy.deepcopy(
            {
                "memories": memories,
                "until": self.until,
                "severity": self.severity,
                "step": self.step,
                "phases": self._phases.memory,
                "last": self.last,
                "outlook": self.outlook.memory,
            }
        )

    def load(self, state: Mapping[str, Any]) -> None:
        """Go on in the middle of all windows. A check that is new begins afresh."""
        for name, memory in state["memories"].items():
            if name in self.checks:
                self.checks[name].memory = copy.deepcopy(memory)
        self.until = {n: x for n, x in state["until"].items() if n in self.checks}
        severity = state.get("severity", {})
        self.severity = {name: severity.get(name, "debug") for name in self.until}
        self.step = state.get("step", 0)
        self.last = dict(state.get("last", {}))
        self.outlook.memory = copy.deepcopy(state.get("outlook", {}))
        self._phases.memory = copy.deepcopy(state.get("phases", {}))
