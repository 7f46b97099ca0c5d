"""What is done about a finding: nothing yet, nothing at all, or its next action.

This only chooses, and notes how far the ladder of the anomaly has been climbed. To ask
for a change and to record a decision is the policy's.
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from typing import Any

from lumina.plan.experience import Confidence, confidence
from lumina.plan.plan import Plan
from lumina.quantities import counted
from lumina.state.events import Severity
from lumina.train.health.watching import Finding
from lumina.train.orchestrator import figures
from lumina.train.orchestrator.actions import ACTIONS, Action
from lumina.train.orchestrator.branching import ROLLBACK
from lumina.train.orchestrator.course import Course
from lumina.train.orchestrator.decision import NOTHING
from lumina.train.orchestrator.episodes import Episodes
from lumina.train.orchestrator.ladders import ladder_for
from lumina.train.orchestrator.ledger import Ledger
from lumina.train.orchestrator.limits import Limits
from lumina.train.orchestrator.measuring import Measuring
from lumina.train.rules.rule import Now, Proposal

URGENT: tuple[Severity, ...] = ("error", "critical")
"""Severities of findings that wait for a part of a cooldown only."""

GRAVITY: tuple[Severity, ...] = ("debug", "info", "warning", "error", "critical")

NO_USE = "at its bound, or of no use here"
"""Why an action that the run can have proposes nothing."""


@dataclass(frozen=True)
class Choice:
    """What is done about a finding now.

    Attributes:
        action: the one that is chosen.
        proposal: what it asks of the arbiter; None where nothing is done.
        why: why nothing is done; empty where something is.
    """

    action: Action
    proposal: Proposal | None = None
    why: str = ""


class Choosing:
    """Chooses what is done about a finding.

    Args:
        plan: of the run.
        limits: what the run allows.
        episodes: the anomalies that go on, and how far each was acted on.
        ledger: has how often the run went back.
        measuring: knows whether the effect of a change is being measured.
        memory: of the policy.
    """

    def __init__(
        self,
        plan: Plan,
        limits: Limits,
        episodes: Episodes,
        ledger: Ledger,
        measuring: Measuring,
        memory: dict[str, Any],
    ) -> None:
        self.plan = plan
        self.limits = limits
        self.episodes = episodes
        self.ledger = ledger
        self.measuring = measuring
        self.memory = memory

    def waits(self, finding: Finding) -> bool:
        """Whether a finding is recorded and leads to no action yet."""
        memory, limits = self.memory, self.limits
        urgent = finding.severity in URGENT
        looks_back = int(finding.evidence.get("steps", 0))
        if self.episodes.waits(finding.anomaly, finding.step, looks_back):
            return True
        if memory["acted"] is not None:
            step, tokens = memory["acted"]
            pause, some = limits.pause(urgent)
            if finding.step - step <= pause or memory["tokens"] - tokens < some:
                return True
        return self.measuring.goes_on and not urgent

    def choose(self, finding: Finding, now: Now) -> Choice | None:
        """The next action on the ladder of the anomaly that this run can have.

        Args:
            finding: of an anomaly that has a ladder.
            now: gives the present value of a control by its name.

        Returns:
            None where what was changed last has to show its effect first.
        """
        ladder = ladder_for(finding.anomaly)
        why: dict[str, list[str]] = {}  # objection -> the actions that have it
        for rung in range(self.episodes.rung(finding.anomaly), len(ladder)):
            action = ACTIONS.get(ladder[rung])
            if action is None:
                continue
            if self._has_to_wait(action):
                self.episodes.climb(finding.anomaly, rung)
                return None
            if objection := self._objection(finding, action):
                why.setdefault(objection, []).append(action.name)
                continue
            if action.name == NOTHING:
                wait = self.limits.settling
                self.episodes.climb(finding.anomaly, rung + 1, finding.step + wait)
                return Choice(action, why="it may heal by itself")
            if action.last_resort and (
                other := self._passed_over(finding, ladder[:rung], now)
            ):
                rung, action = rung - 1, other
            proposal = action.proposal(finding, now, self.plan)
            if proposal is None:
                why.setdefault(NO_USE, []).append(action.name)
                continue
            self.episodes.climb(finding.anomaly, rung + 1)
            return Choice(action, proposal)
        self.episodes.exhaust(finding.anomaly, finding.step)
        # An action can stand on several rungs of a ladder.
        said = "; ".join(
            f"{listed(dict.fromkeys(names))}: {reason}" for reason, names in why.items()
        )
        return Choice(ACTIONS[NOTHING], why=said or "every action was tried")

    def sure(self, finding: Finding, action: Action) -> Confidence:
        """How sure an action is: as the finding is, moved by what earlier runs say."""
        prior, phase = finding.confidence, self.memory["phase"]
        return confidence(self.plan, prior, finding.anomaly, phase, action.name)

    def _has_to_wait(self, action: Action) -> bool:
        """Whether what was changed last has to show its effect before an action.

        Before the last resort; and where the time of steps is to be compared, until
        there are some since the change before.
        """
        if action.measures == "seconds":
            times = self.memory["figures"].get("seconds", ())
            enough = max(self.limits.cooldown_steps, figures.ENOUGH["seconds"])
            return len(times) < min(enough, figures.BEFORE)
        return action.last_resort and self.measuring.goes_on

    def _passed_over(
        self, finding: Finding, names: Sequence[str], now: Now
    ) -> Action | None:
        """The first of some actions that was not taken and can be by now."""
        for action in (ACTIONS[name] for name in names if name in ACTIONS):
            if not action.control or self.episodes.tried(finding.anomaly, action.name):
                continue
            if self._objection(finding, action):
                continue
            if action.proposal(finding, now, self.plan) is not None:
                return action
        return None

    def _objection(self, finding: Finding, action: Action) -> str:
        """Why an action is not taken against a finding; empty where it can be."""
        barred: str = self.memory["barred"].get(f"{finding.anomaly}/{action.name}", "")
        objection = (
            barred or self.limits.objection(action) or action.possible(self.plan)
        )
        if objection or not action.control:
            return objection
        if late := self.limits.late(
            finding.anomaly, action, self.plan.steps, finding.step
        ):
            return late
        rounds = self.episodes.rounds(finding.anomaly)
        course = Course.of(self.memory, rounds, self.limits.cooldown_steps)
        if early := action.premature(course):
            return early
        gone = self.ledger.counts.get("rollbacks_performed", 0)
        if action.control == ROLLBACK and gone >= self.limits.rollbacks:
            return f"the run went back {counted(gone, 'time')}"
        needed, sure = self.limits.confidence_for(action), self.sure(finding, action)
        if sure.value < needed:
            return f"confidence {sure.value:.2f} is below {needed:g}; {sure.why}"
        return ""


def listed(names: Iterable[str]) -> str:
    """Names in a row: "a", "a and b", "a, b and c"."""
    *first, last = names
    return f"{', '.join(first)} and {last}" if first else last


def gravest_first(finding: Finding) -> tuple[int, float, str]:
    """Sorts the gravest and then the surest finding first."""
    return -GRAVITY.index(finding.severity), -finding.confidence, finding.anomaly
