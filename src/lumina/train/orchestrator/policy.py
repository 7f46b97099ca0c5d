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

from lumina.plan.plan import Plan
from lumina.train.controls import Change
from lumina.train.health.check import number
from lumina.train.health.watching import Finding
from lumina.train.orchestrator import branching, figures
from lumina.train.orchestrator.actions import ACTIONS, Action
from lumina.train.orchestrator.choosing import Choice, Choosing, gravest_first
from lumina.train.orchestrator.course import follow
from lumina.train.orchestrator.decision import NOTHING, UNDO, Decision
from lumina.train.orchestrator.episodes import Episodes
from lumina.train.orchestrator.ladders import ladder_for
from lumina.train.orchestrator.ledger import Ledger
from lumina.train.orchestrator.limits import Limits
from lumina.train.orchestrator.measuring import Measuring
from lumina.train.orchestrator.predictions import Predictions
from lumina.train.orchestrator.status import earlier_runs
from lumina.train.rules.rule import Note, Now, Proposal

WINDOW = 50
"""Losses from which the curve without a change is predicted."""


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
        measuring: measures what came of the latest change.
        choosing: chooses what is done about a finding.
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
        self.measuring = Measuring(self.limits, self.ledger, self.memory)
        self.choosing = Choosing(
            plan, self.limits, self.episodes, self.ledger, self.measuring, self.memory
        )

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
        self.measuring.see(row)
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
        self.measuring.judge(step, findings)
        if memory["undo"] is not None:
            decision, proposal = self.measuring.undo(step)
            memory["asked"] = decision.to_dict()
            return proposal
        for finding in sorted(findings, key=gravest_first):
            if ladder_for(finding.anomaly) and not self.choosing.waits(finding):
                choice = self.choosing.choose(finding, now)
                return None if choice is None else self._follow(choice, finding, now)
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
                self.measuring.give_up(f"{change.name} was changed meanwhile")
            return
        memory["asked"] = None
        decision = Decision(**asked)
        if branching.heard(memory, decision.action, change, self.limits):
            return
        without = branching.over(memory)
        if change.outcome != "applied":
            self.measuring.bar(decision.anomaly, decision.action, change.outcome)
            return
        decision = self.ledger.decided(
            replace(decision, old=change.old, new=change.value)
        )
        if decision.action != UNDO:
            self.measuring.give_up(f"{decision.action} followed before it was measured")
            self._act(memory["step"])
            pause = self.limits.cooldown_steps
            self.measuring.begin(decision, change, pause, without)
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
        since, memory["step"] = memory["step"], step
        if memory["acted"] is not None:
            self._act(step)
        branching.rolled_back(memory)
        self.measuring.rolled_back(since, step)
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

    def _follow(self, choice: Choice, finding: Finding, now: Now) -> Proposal | None:
        """Decide as was chosen; in shadow mode a change is only recorded."""
        if choice.proposal is None:
            self._leave(finding, choice.why, now)
            return None
        action, sure = choice.action, self.choosing.sure(finding, choice.action)
        self.episodes.take(finding.anomaly, action.name)
        proposal = replace(choice.proposal, confidence=sure.value)
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

    def _leave(self, finding: Finding, why: str, now: Now) -> None:
        """Decide to change nothing, and watch whether the anomaly heals.

        It is watched until its check has judged once more at least: a check that is
        silent between two windows, or two evaluations, has not found that it healed.
        """
        reason = f"nothing is changed: {finding.text} ({why})"
        action = ACTIONS[NOTHING]
        decision = self._decision(finding, action, finding.confidence, reason)
        decision = self.ledger.decided(decision)
        if self.memory["trial"] is None:
            reading = finding.next_reading
            if reading is None:  # an evaluation, which comes after the row of its step
                reading = int(now("eval_every")) + 1
            self.measuring.begin(decision, None, self.limits.settling, until=reading)

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
