"""The policy: from findings to decisions, and from outcomes to what is undone.

Every decision is a function of the rows, the evaluations and the Plan, so that all
ranks decide the same, and a resumed run what a run that never stopped decides.
Everything that is remembered is plain JSON.
"""

from __future__ import annotations

import copy
import math
from collections.abc import Mapping, Sequence
from dataclasses import replace
from typing import Any

from lumina.plan.experience import Confidence, confidence
from lumina.plan.plan import Plan
from lumina.state.events import Severity
from lumina.train.controls import Change, control_named
from lumina.train.health.watching import Finding
from lumina.train.orchestrator.actions import ACTIONS, Action
from lumina.train.orchestrator.decision import (
    DECISION,
    NOTHING,
    OUTCOME,
    Decision,
    Outcome,
)
from lumina.train.orchestrator.forecast import forecast
from lumina.train.orchestrator.ladders import LADDERS
from lumina.train.orchestrator.trial import Trial
from lumina.train.rules.arbiter import NEEDED, reversal_of
from lumina.train.rules.rule import Note, Now, Proposal

WINDOW = 50
"""Losses from which the curve without a change is predicted."""

URGENT: tuple[Severity, ...] = ("error", "critical")
"""Severities of findings that wait for a part of a cooldown only."""

GRAVITY: tuple[Severity, ...] = ("debug", "info", "warning", "error", "critical")

CALM = 4
"""Cooldowns without a finding after which an anomaly is over."""

UNDO = "undo"
"""The action of taking back a change that made things worse."""


class Policy:
    """Decides about findings, one change at a time.

    Each anomaly has a ladder of actions. A finding leads to the first one that this run
    can have and that is sure enough for how far it can be taken back; while the anomaly
    goes on, further findings lead to the next ones. After a change nothing else is
    changed for a cooldown, and the losses are measured: where they are worse than
    predicted without the change, it is undone and not tried again for that anomaly.

    Args:
        plan: of the run.

    Attributes:
        memory: everything that is remembered.
    """

    def __init__(self, plan: Plan) -> None:
        self.plan = plan
        self.settings = plan.orchestrator
        self.memory: dict[str, Any] = {
            "number": 0,
            "step": 0,
            "phase": "",
            "acted": None,
            "episodes": {},
            "barred": {},
            "asked": None,
            "trial": None,
            "undo": None,
            "losses": [],
        }
        self._notes: list[Note] = []

    @property
    def cooldown(self) -> int:
        """Steps after a change in which nothing else is changed."""
        return int(self.settings["cooldown_steps"])

    @property
    def settling(self) -> int:
        """Steps after a change that are not measured."""
        return max(self.cooldown // 2, 2)

    def see(self, row: Mapping[str, Any]) -> None:
        """Take in a row: the window of losses, and the measurement under way."""
        memory, step, loss = self.memory, int(row["step"]), row["loss"]
        memory["step"] = step
        finite = isinstance(loss, int | float) and math.isfinite(loss)
        if finite:
            memory["losses"] = [*memory["losses"], [float(step), float(loss)]][-WINDOW:]
        if memory["trial"] is not None:
            trial = Trial(**memory["trial"])
            trial.see(step, float(loss) if finite else None)
            memory["trial"] = trial.to_dict()

    def decide(
        self, step: int, findings: Sequence[Finding], now: Now, phase: str = ""
    ) -> Proposal | None:
        """What to change after a row or an evaluation, if anything.

        Args:
            step: of the row or evaluation.
            findings: of it.
            now: gives the present value of a control by its name.
            phase: of the training, in a word.
        """
        memory = self.memory
        memory["phase"] = phase
        self._follow(step, findings)
        asked = memory["asked"]
        if asked is not None and step > asked["decision"]["step"] + 1:
            memory["asked"] = None  # another rule's change went first
        if memory["asked"] is not None:
            return None
        self._measure(step, findings)
        if memory["undo"] is not None:
            return self._undo(step)
        for finding in sorted(findings, key=_first):
            if self._waits(finding):
                continue
            return self._climb(finding, now)
        return None

    def changed(self, change: Change, rule: str | None) -> None:
        """Learn what became of a change.

        Args:
            change: applied or refused.
            rule: the rule that it is of; None for a person's request.
        """
        memory, asked = self.memory, self.memory["asked"]
        if rule != "orchestrator" or asked is None:
            trial = memory["trial"]
            if change.outcome == "applied" and trial is not None:
                self._end_trial(f"{change.name} was changed by another hand meanwhile")
            return
        memory["asked"] = None
        decision = Decision(**asked["decision"])
        if change.outcome != "applied":
            memory["barred"][f"{decision.anomaly}/{decision.action}"] = change.outcome
            return
        decision = replace(decision, old=change.old, new=change.value)
        self._record(decision)
        if decision.action != UNDO:
            self._acted(decision, change)

    def notes(self) -> list[Note]:
        """The decisions and outcomes since the last call, as events."""
        found, self._notes = self._notes, []
        return found

    def state(self) -> dict[str, Any]:
        """What is remembered, as plain JSON values."""
        return copy.deepcopy(self.memory)

    def load(self, state: Mapping[str, Any]) -> None:
        """Go on where `state` was taken."""
        self.memory |= copy.deepcopy(dict(state))

    # Anomalies over time

    def _follow(self, step: int, findings: Sequence[Finding]) -> None:
        """Begin, continue and end the episodes of anomalies."""
        episodes = self.memory["episodes"]
        for finding in findings:
            new = {"rung": 0, "begun": step, "wait": 0}
            episodes.setdefault(finding.anomaly, new)["seen"] = step
        over = CALM * self.cooldown
        for name in [n for n, e in episodes.items() if step - e["seen"] > over]:
            del episodes[name]

    def _waits(self, finding: Finding) -> bool:
        """Whether a finding is only noted for now."""
        memory = self.memory
        if finding.anomaly not in LADDERS:
            return True
        urgent = finding.severity in URGENT
        if memory["episodes"][finding.anomaly]["wait"] > finding.step:
            return True
        if memory["acted"] is not None:
            pause = self.settling if urgent else self.cooldown
            if finding.step - memory["acted"] <= pause:
                return True
        trial = memory["trial"]
        return trial is not None and trial["action"] != NOTHING and not urgent

    # Decisions

    def _climb(self, finding: Finding, now: Now) -> Proposal | None:
        """The next action on the ladder of an anomaly that this run can have."""
        episode = self.memory["episodes"][finding.anomaly]
        ladder, why = LADDERS[finding.anomaly], []
        for rung, name in enumerate(ladder[episode["rung"] :], episode["rung"]):
            action = ACTIONS.get(name)
            if action is None:
                continue
            if objection := self._objection(finding, action):
                why.append(f"{name}: {objection}")
                continue
            if name == NOTHING:
                episode |= {"rung": rung + 1, "wait": finding.step + self.settling}
                self._leave(finding, "it may heal by itself")
                return None
            proposal = action.proposal(finding, now, self.plan)
            if proposal is None:
                why.append(f"{name}: it is at its bound")
                continue
            episode |= {"rung": rung + 1, "wait": 0}
            return self._ask(finding, action, proposal, now)
        episode["wait"] = finding.step + CALM * self.cooldown
        self._leave(finding, "; ".join(why) or "every action was tried")
        return None

    def _objection(self, finding: Finding, action: Action) -> str:
        """Why an action is not taken against a finding; empty where it can be."""
        barred: str = self.memory["barred"].get(f"{finding.anomaly}/{action.name}", "")
        objection = barred or action.possible(self.plan)
        if objection or not action.control:
            return objection
        needed = NEEDED[reversal_of(action.control, action.reversal)]
        sure = self._confidence(finding, action)
        if sure.value < needed:
            return f"confidence {sure.value:.2f} is below {needed:g}; {sure.why}"
        return ""

    def _confidence(self, finding: Finding, action: Action) -> Confidence:
        """How sure an action is: as the finding is, moved by what earlier runs say."""
        prior, phase = finding.confidence, self.memory["phase"]
        return confidence(self.plan, prior, finding.anomaly, phase, action.name)

    def _ask(
        self, finding: Finding, action: Action, proposal: Proposal, now: Now
    ) -> Proposal | None:
        """Decide on an action; in shadow mode it is only recorded."""
        sure = self._confidence(finding, action)
        proposal = replace(proposal, confidence=sure.value)
        decision = Decision(
            number=0,
            step=finding.step,
            anomaly=finding.anomaly,
            action=action.name,
            level=action.level,
            mode=self.settings["mode"],
            confidence=proposal.confidence,
            reason=proposal.reason,
            evidence=self._evidence(finding),
            control=proposal.control,
            old=now(proposal.control),
            new=proposal.value,
        )
        if decision.mode == "shadow":
            self.memory["acted"] = finding.step
            self._record(decision)
            return None
        self.memory["asked"] = {"decision": decision.to_dict()}
        return proposal

    def _leave(self, finding: Finding, why: str) -> None:
        """Decide to change nothing, and watch whether the anomaly heals."""
        decision = Decision(
            number=0,
            step=finding.step,
            anomaly=finding.anomaly,
            action=NOTHING,
            level=0,
            mode=self.settings["mode"],
            confidence=finding.confidence,
            reason=f"nothing is changed ({why}): {finding.text}",
            evidence=self._evidence(finding),
        )
        self._record(decision)
        if self.memory["trial"] is None:
            self._try(decision, None, self.settling)

    def _evidence(self, finding: Finding) -> dict[str, Any]:
        """The figures of a finding, and the phase of the training."""
        return {**finding.evidence, "phase": self.memory["phase"]}

    def _record(self, decision: Decision) -> None:
        """Number a decision and tell of it."""
        self.memory["number"] += 1
        decision = replace(decision, number=self.memory["number"])
        done = "would " if decision.mode == "shadow" and decision.control else ""
        text = f"{done}{decision.reason} (confidence {decision.confidence:.2f})"
        self._tell(DECISION, decision.to_dict(), text, decision.step)

    def _acted(self, decision: Decision, change: Change) -> None:
        """A change was made: the cooldown and the measurement begin."""
        if self.memory["trial"] is not None:
            self._end_trial(f"{decision.action} followed before it was measured")
        step = change.step or decision.step
        self.memory["acted"] = step
        self._try(replace(decision, step=step), change, self.cooldown)

    # Outcomes

    def _try(self, decision: Decision, change: Change | None, pause: int) -> None:
        """Begin to measure what comes of the decision recorded last."""
        curve = forecast(self.memory["losses"])
        self.memory["trial"] = Trial(
            number=self.memory["number"],
            anomaly=decision.anomaly,
            action=decision.action,
            begin=decision.step + pause + 1,
            wanted=max(self.cooldown, 3),
            expected=None if curve is None else curve.to_dict(),
            change=None if change is None else change.id,
            control=decision.control,
            old=None if change is None else change.old,
        ).to_dict()

    def _measure(self, step: int, findings: Sequence[Finding]) -> None:
        """Judge a decision once enough steps were measured."""
        if self.memory["trial"] is None:
            return
        trial = Trial(**self.memory["trial"])
        if step >= trial.begin and any(f.anomaly == trial.anomaly for f in findings):
            trial.again += 1
            self.memory["trial"] = trial.to_dict()
        if not trial.complete:
            return
        outcome = trial.outcome(step)
        self.memory["trial"] = None
        self._tell_outcome(outcome)
        if outcome.verdict != "worse" or trial.change is None:
            return
        self.memory["barred"][f"{trial.anomaly}/{trial.action}"] = (
            "it made things worse"
        )
        if not control_named(trial.control).final:
            self.memory["undo"] = trial.to_dict() | {"why": outcome.text}

    def _undo(self, step: int) -> Proposal | None:
        """Take back the change that was judged to be worse."""
        held, self.memory["undo"] = self.memory["undo"], None
        reason = f"undo {held['action']} of decision {held['number']}: {held['why']}"
        decision = Decision(
            number=0,
            step=step,
            anomaly=held["anomaly"],
            action=UNDO,
            level=ACTIONS[held["action"]].level,
            mode="on",
            confidence=1.0,
            reason=reason,
            control=held["control"],
            new=held["old"],
        )
        self.memory["asked"] = {"decision": decision.to_dict()}
        return Proposal(held["control"], held["old"], reason, undoes=held["change"])

    def _end_trial(self, why: str) -> None:
        """Give up measuring a decision."""
        trial, self.memory["trial"] = Trial(**self.memory["trial"]), None
        self._tell_outcome(trial.outcome(self.memory["step"], why))

    def _tell_outcome(self, outcome: Outcome) -> None:
        text = f"decision {outcome.number}: {outcome.verdict}, {outcome.text}"
        self._tell(OUTCOME, outcome.to_dict(), text, outcome.step)

    def _tell(self, kind: str, fields: dict[str, Any], text: str, step: int) -> None:
        """An event with the fields but the step, which every event has."""
        data = {key: value for key, value in fields.items() if key != "step"}
        self._notes.append(Note(step, text, data, "info", kind))


def _first(finding: Finding) -> tuple[int, float, str]:
    """Sorts the gravest and then the surest finding first."""
    return -GRAVITY.index(finding.severity), -finding.confidence, finding.anomaly
