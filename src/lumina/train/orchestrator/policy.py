"""The policy: from findings to decisions, and from outcomes to what is undone.

Every decision is a function of the rows, the evaluations and the Plan, so that all
ranks decide the same, and a resumed run what a run that never stopped decides.
Everything that is remembered is plain JSON.
"""

from __future__ import annotations

import copy
from collections.abc import Mapping, Sequence
from dataclasses import replace
from typing import Any

from lumina.plan.experience import Confidence, confidence
from lumina.plan.plan import Plan
from lumina.quantities import counted
from lumina.state.events import Severity
from lumina.train.controls import Change, control_named
from lumina.train.health.check import number
from lumina.train.health.watching import Finding
from lumina.train.orchestrator import branching, figures
from lumina.train.orchestrator.actions import ACTIONS, Action
from lumina.train.orchestrator.course import Course, follow
from lumina.train.orchestrator.decision import NOTHING, Decision
from lumina.train.orchestrator.episodes import Episodes
from lumina.train.orchestrator.forecast import forecast
from lumina.train.orchestrator.ladders import ladder_for, must_help
from lumina.train.orchestrator.ledger import Ledger
from lumina.train.orchestrator.limits import Limits
from lumina.train.orchestrator.predictions import Predictions
from lumina.train.orchestrator.status import earlier_runs
from lumina.train.orchestrator.trial import Trial
from lumina.train.rules.rule import Note, Now, Proposal

WINDOW = 50
"""Losses from which the curve without a change is predicted."""

URGENT: tuple[Severity, ...] = ("error", "critical")
"""Severities of findings that wait for a part of a cooldown only."""

GRAVITY: tuple[Severity, ...] = ("debug", "info", "warning", "error", "critical")

UNDO = "undo"
"""The action of taking back a change that made things worse."""

ROLLBACK = "rollback"
"""The control of which a run has only this many changes."""


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
        memory: what is remembered beside the episodes and the account: the last `step`,
            its `tokens`, `epoch` and `phase`; the step and the tokens at which
            something was changed (`acted`); what is `barred`, and why; what was `asked`
            of the arbiter; the `trial` under way, the change to `undo`, the latest
            `losses` and other `figures`, the losses at the `outset` and the `lowest`.
        episodes: the anomalies that go on.
        ledger: the account for metrics and status.
        predictions: how good the predictions of the loss are.
    """

    def __init__(self, plan: Plan) -> None:
        self.plan = plan
        self.limits = Limits.of(plan)
        self.episodes = Episodes(self.limits.cooldown_steps)
        self.ledger = Ledger()
        self.predictions = Predictions(self.limits.cooldown_steps)
        self.memory: dict[str, Any] = {
            "step": 0,
            "tokens": 0,
            "epoch": 0.0,
            "phase": "",
            "acted": None,
            "barred": {},
            "asked": None,
            "trial": None,
            "undo": None,
            "branch": None,
            "losses": [],
            "figures": {},
        }

    def see(self, row: Mapping[str, Any]) -> None:
        """Take in a row: the window of losses, and the measurement under way."""
        memory, step = self.memory, int(row["step"])
        loss = number(row, "loss")
        memory["step"] = step
        memory["tokens"] = row.get("tokens") or 0
        memory["epoch"] = row.get("epoch") or 0.0
        if loss is not None:
            memory["losses"] = [*memory["losses"], [float(step), loss]][-WINDOW:]
            follow(memory)
        if memory["trial"] is not None:
            trial = Trial(**memory["trial"])
            trial.see(step, number(row, figures.KEYS[trial.measures]))
            memory["trial"] = trial.to_dict()
        figures.follow(memory, row, figures.BEFORE)
        branching.see(memory, step, loss)
        self.predictions.see(step, loss)

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
        for finding in findings:
            begun = self.episodes.note(finding.anomaly, step)
            self.ledger.count("anomalies_detected", int(begun))
        self.ledger.count("anomalies_resolved", self.episodes.end(step))
        if self.episodes.held:
            self.predictions.drop()
        elif (right := self.predictions.judge(step, memory["losses"])) is not None:
            self.ledger.predicted(right)
        asked = memory["asked"]
        if asked is not None and step > asked["step"] + 1:
            memory["asked"] = None  # another rule's change went first
        if memory["asked"] is not None:
            return None
        if memory["branch"] is not None:
            return branching.ask(memory, step)
        self._measure(step, findings)
        if memory["undo"] is not None:
            return self._undo(step)
        for finding in sorted(findings, key=_first):
            if ladder_for(finding.anomaly) and not self._waits(finding):
                return self._climb(finding, now)
        return None

    def changed(self, change: Change, rule: str | None) -> None:
        """Learn what became of a change.

        Args:
            change: applied or refused.
            rule: the rule that it is of; None for a person's request.
        """
        memory, asked = self.memory, self.memory["asked"]
        if change.outcome == "applied":
            self.predictions.drop()
        if rule != "orchestrator" or asked is None:
            if change.outcome == "applied":
                memory["figures"] = {}
                if memory["trial"] is not None:
                    self._end_trial(f"{change.name} was changed meanwhile")
            return
        memory["asked"] = None
        decision = Decision(**asked)
        if branching.heard(memory, decision.action, change, self.limits):
            return
        without = branching.over(memory)
        if change.outcome != "applied":
            self._bar(decision.anomaly, decision.action, change.outcome)
            return
        decision = self.ledger.decided(
            replace(decision, old=change.old, new=change.value)
        )
        if decision.action != UNDO:
            if memory["trial"] is not None:
                self._end_trial(f"{decision.action} followed before it was measured")
            self._act(memory["step"])
            self._try(decision, change, self.limits.cooldown_steps, without)
        memory["figures"] = {}  # those of before are no measure of what comes next

    def rolled_back(self, step: int, then: Mapping[str, Any] | None) -> None:
        """Steps count again from `step`: windows go back, the account stays.

        Args:
            step: completed steps that the run went back to.
            then: the state at that step; None where it is not known.
        """
        memory = self.memory
        kept = [point for point in memory["losses"] if point[0] <= step]
        memory["losses"] = then["memory"]["losses"] if then else kept
        memory["tokens"] = then["memory"]["tokens"] if then else 0
        memory["figures"] = {}
        since, memory["step"], memory["undo"] = memory["step"], step, None
        if memory["acted"] is not None:
            self._act(step)
        trial = memory["trial"]
        branching.rolled_back(memory)
        if trial is not None and trial["control"] == ROLLBACK:
            again = since if ACTIONS[trial["action"]].restarts else step
            begin = max(again, step + self.limits.cooldown_steps) + 1
            memory["trial"] = trial | {"begin": begin, "losses": [], "broken": 0}
        elif trial is not None:
            self._end_trial("the run went back to an earlier step")
        self.episodes.rolled_back(step)
        self.predictions.drop()

    def notes(self) -> list[Note]:
        """The decisions and outcomes since the last call, as events."""
        return self.ledger.notes()

    def metrics(self) -> dict[str, Any]:
        """What it adds to the row that it has seen last."""
        learned = {"meta_learning_runs": earlier_runs(self.plan)}
        return self.ledger.metrics(self.memory["epoch"]) | learned

    def state(self) -> dict[str, Any]:
        """What is remembered, as plain JSON values."""
        return copy.deepcopy(
            {
                "memory": self.memory,
                "episodes": self.episodes.held,
                "ledger": self.ledger.state(),
                "prediction": self.predictions.held,
            }
        )

    def load(self, state: Mapping[str, Any]) -> None:
        """Go on where `state` was taken."""
        held = copy.deepcopy(dict(state))
        self.memory |= held["memory"]
        self.episodes.held = held["episodes"]
        self.ledger.load(held["ledger"])
        self.predictions.held = held["prediction"]

    # Decisions

    def _waits(self, finding: Finding) -> bool:
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
        return self._is_measuring and not urgent

    @property
    def _is_measuring(self) -> bool:
        """Whether the effect of a change is being measured."""
        trial = self.memory["trial"]
        return trial is not None and trial["action"] != NOTHING

    def _climb(self, finding: Finding, now: Now) -> Proposal | None:
        """The next action on the ladder of an anomaly that this run can have."""
        ladder, why = ladder_for(finding.anomaly), []
        for rung in range(self.episodes.rung(finding.anomaly), len(ladder)):
            action = ACTIONS.get(ladder[rung])
            if action is None:
                continue
            if self._has_to_wait(action):
                self.episodes.climb(finding.anomaly, rung)
                return None
            if objection := self._objection(finding, action):
                why.append(f"{action.name}: {objection}")
                continue
            if action.name == NOTHING:
                wait = self.limits.settling
                self.episodes.climb(finding.anomaly, rung + 1, finding.step + wait)
                self._leave(finding, "it may heal by itself")
                return None
            if action.last_resort and (
                other := self._passed_over(finding, ladder[:rung], now)
            ):
                rung, action = rung - 1, other
            proposal = action.proposal(finding, now, self.plan)
            if proposal is None:
                why.append(f"{action.name}: at its bound, or of no use here")
                continue
            self.episodes.climb(finding.anomaly, rung + 1)
            return self._ask(finding, action, proposal, now)
        self.episodes.exhaust(finding.anomaly, finding.step)
        # An action can stand on several rungs of a ladder.
        said = "; ".join(dict.fromkeys(why))
        self._leave(finding, said or "every action was tried")
        return None

    def _has_to_wait(self, action: Action) -> bool:
        """Whether what was changed last has to show its effect before an action.

        Before the last resort; and where the time of steps is to be compared, until
        there are some since the change before.
        """
        if action.measures == "seconds":
            times = self.memory["figures"].get("seconds", ())
            return len(times) < min(self.limits.cooldown_steps, figures.BEFORE)
        return action.last_resort and self._is_measuring

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
        needed, sure = self.limits.confidence_for(action), self._sure(finding, action)
        if sure.value < needed:
            return f"confidence {sure.value:.2f} is below {needed:g}; {sure.why}"
        return ""

    def _sure(self, finding: Finding, action: Action) -> Confidence:
        """How sure an action is: as the finding is, moved by what earlier runs say."""
        prior, phase = finding.confidence, self.memory["phase"]
        return confidence(self.plan, prior, finding.anomaly, phase, action.name)

    def _ask(
        self, finding: Finding, action: Action, proposal: Proposal, now: Now
    ) -> Proposal | None:
        """Decide on an action; in shadow mode it is only recorded."""
        sure = self._sure(finding, action)
        self.episodes.take(finding.anomaly, action.name)
        proposal = replace(proposal, confidence=sure.value)
        decision = replace(
            self._decision(finding, action, sure.value, proposal.reason),
            control=proposal.control,
            old=now(proposal.control),
            new=proposal.value,
        )
        if decision.mode == "shadow":
            self._act(finding.step)
            self.ledger.decided(decision)
            return None
        by_loss = action.measures == "loss"
        if by_loss and branching.wanted(
            decision, self.limits, self.plan, self.ledger.counts
        ):
            self.ledger.count("branches")
            return branching.begin(self.memory, decision, proposal)
        self.memory["asked"] = decision.to_dict()
        return proposal

    def _leave(self, finding: Finding, why: str) -> None:
        """Decide to change nothing, and watch whether the anomaly heals."""
        reason = f"nothing is changed ({why}): {finding.text}"
        action = ACTIONS[NOTHING]
        decision = self._decision(finding, action, finding.confidence, reason)
        decision = self.ledger.decided(decision)
        if self.memory["trial"] is None:
            self._try(decision, None, self.limits.settling)

    def _decision(
        self, finding: Finding, action: Action, sure: float, reason: str
    ) -> Decision:
        """A decision about a finding that has no number yet and changes no control."""
        return Decision(
            number=0,
            step=finding.step,
            anomaly=finding.anomaly,
            action=action.name,
            level=action.level,
            mode=self.limits.mode,
            confidence=sure,
            reason=reason,
            evidence={**finding.evidence, "phase": self.memory["phase"]},
        )

    def _act(self, step: int) -> None:
        """Something was changed: a cooldown begins."""
        self.memory["acted"] = [step, self.memory["tokens"]]

    def _bar(self, anomaly: str, action: str, why: str) -> None:
        """An action is not taken again against an anomaly."""
        self.memory["barred"][f"{anomaly}/{action}"] = why

    # Outcomes

    def _try(
        self,
        decision: Decision,
        change: Change | None,
        pause: int,
        without: Sequence[list[float]] = (),
    ) -> None:
        """Begin to measure what comes of a decision."""
        measures = ACTIONS[decision.action].measures
        curve = forecast(self.memory["losses"], self.memory["phase"])
        begun = self.memory["step"]
        self.memory["trial"] = Trial(
            number=decision.number,
            anomaly=decision.anomaly,
            action=decision.action,
            begin=begun + pause + 1,
            wanted=max(self.limits.cooldown_steps, 3),
            expected=None if curve is None else curve.to_dict(),
            change=None if change is None else change.id,
            control=decision.control,
            old=None if change is None else change.old,
            without=list(without),
            measures=measures,
            before=list(self.memory["figures"].get(measures, ())),
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
        self.memory["trial"] = None
        outcome = trial.outcome(step)
        self.ledger.judged(outcome, changed=trial.change is not None)
        useless = outcome.verdict == "same" and must_help(trial.anomaly, trial.action)
        if trial.change is not None and (useless or outcome.verdict == "worse"):
            why = "it made no difference" if useless else "it made things worse"
            self._bar(trial.anomaly, trial.action, why)
            if not control_named(trial.control).final:
                self.memory["undo"] = trial.to_dict() | {"why": outcome.text}

    def _undo(self, step: int) -> Proposal | None:
        """Take back the change that was judged to be worse."""
        held, self.memory["undo"] = self.memory["undo"], None
        reason = f"undo {held['action']} of decision {held['number']}: {held['why']}"
        self.memory["asked"] = Decision(
            number=0,
            step=step,
            anomaly=held["anomaly"],
            action=UNDO,
            level=ACTIONS[held["action"]].level,
            mode=self.limits.mode,
            confidence=1.0,
            reason=reason,
            control=held["control"],
            new=held["old"],
        ).to_dict()
        return Proposal(held["control"], held["old"], reason, undoes=held["change"])

    def _end_trial(self, why: str) -> None:
        """Give up measuring a decision."""
        trial, self.memory["trial"] = Trial(**self.memory["trial"]), None
        outcome = trial.outcome(self.memory["step"], why)
        self.ledger.judged(outcome, changed=trial.change is not None)


def _first(finding: Finding) -> tuple[int, float, str]:
    """Sorts the gravest and then the surest finding first."""
    return -GRAVITY.index(finding.severity), -finding.confidence, finding.anomaly
