"""What comes of decisions: measured, judged, and undone where it is worse."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

from lumina.train.controls import Change, control_named
from lumina.train.health.check import number
from lumina.train.health.watching import Finding
from lumina.train.orchestrator import figures
from lumina.train.orchestrator.actions import ACTIONS
from lumina.train.orchestrator.branching import ROLLBACK
from lumina.train.orchestrator.decision import NOTHING, UNDO, Decision
from lumina.train.orchestrator.forecast import forecast
from lumina.train.orchestrator.ladders import must_help
from lumina.train.orchestrator.ledger import Ledger
from lumina.train.orchestrator.limits import Limits
from lumina.train.orchestrator.trial import Trial
from lumina.train.rules.rule import Proposal


class Measuring:
    """Measures what came of the latest decision.

    Args:
        limits: what the run allows.
        ledger: takes the outcomes.
        memory: of the policy; it has the `trial` that goes on, the change to `undo`,
            and what is `barred`.
    """

    def __init__(self, limits: Limits, ledger: Ledger, memory: dict[str, Any]) -> None:
        self.limits = limits
        self.ledger = ledger
        self.memory = memory

    @property
    def goes_on(self) -> bool:
        """Whether the effect of a change is being measured."""
        trial = self.memory["trial"]
        return trial is not None and trial["action"] != NOTHING

    def begin(
        self,
        decision: Decision,
        change: Change | None,
        pause: int,
        without: Sequence[list[float]] = (),
        until: int = 0,
    ) -> None:
        """Begin to measure what comes of a decision.

        Args:
            decision: with its number.
            change: that it led to; None where it is to change nothing.
            pause: steps that are not measured.
            without: (step, loss) of a branch of the run in which nothing was changed.
            until: steps from now within which nothing is judged yet.
        """
        measures = ACTIONS[decision.action].measures
        curve = forecast(self.memory["losses"], self.memory["phase"])
        begun = self.memory["step"]
        least = max(self.limits.cooldown_steps, figures.ENOUGH.get(measures, 3))
        self.memory["trial"] = Trial(
            number=decision.number,
            anomaly=decision.anomaly,
            action=decision.action,
            begin=begun + pause + 1,
            wanted=max(least, until - pause),
            enough=least,
            expected=None if curve is None else curve.to_dict(),
            change=None if change is None else change.id,
            control=decision.control,
            old=None if change is None else change.old,
            without=list(without),
            measures=measures,
            before=list(self.memory["figures"].get(measures, ())),
        ).to_dict()

    def see(self, row: Mapping[str, Any]) -> None:
        """Take in what a row says of the decision that is measured."""
        if self.memory["trial"] is None:
            return
        trial = Trial(**self.memory["trial"])
        trial.see(int(row["step"]), number(row, figures.KEYS[trial.measures]))
        self.memory["trial"] = trial.to_dict()

    def judge(self, step: int, findings: Sequence[Finding]) -> None:
        """Judge a decision once enough steps were measured.

        Args:
            step: of the row or evaluation.
            findings: of it.
        """
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
            self.bar(trial.anomaly, trial.action, why)
            if not control_named(trial.control).final:
                self.memory["undo"] = trial.to_dict() | {"why": outcome.text}

    def undo(self, step: int) -> tuple[Decision, Proposal]:
        """Take back the change that was judged to be worse.

        Args:
            step: of the row or evaluation.

        Returns:
            The decision, and what it asks of the arbiter.
        """
        held, self.memory["undo"] = self.memory["undo"], None
        reason = f"undo {held['action']} of decision {held['number']}: {held['why']}"
        decision = Decision(
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
        )
        proposal = Proposal(held["control"], held["old"], reason, undoes=held["change"])
        return decision, proposal

    def give_up(self, why: str) -> None:
        """Measure the present decision no longer, if there is one.

        Args:
            why: what came between.
        """
        if self.memory["trial"] is None:
            return
        trial, self.memory["trial"] = Trial(**self.memory["trial"]), None
        outcome = trial.outcome(self.memory["step"], why)
        self.ledger.judged(outcome, changed=trial.change is not None)

    def bar(self, anomaly: str, action: str, why: str) -> None:
        """An action is not taken again against an anomaly."""
        self.memory["barred"][f"{anomaly}/{action}"] = why

    def rolled_back(self, since: int, step: int) -> None:
        """The run went back; where that was the change, it is measured again.

        Args:
            since: the step that it had reached.
            step: completed steps that it went back to.
        """
        trial, self.memory["undo"] = self.memory["trial"], None
        if trial is not None and trial["control"] == ROLLBACK:
            again = since if ACTIONS[trial["action"]].restarts else step
            begin = max(again, step + self.limits.cooldown_steps) + 1
            self.memory["trial"] = trial | {"begin": begin, "losses": [], "broken": 0}
        else:
            self.give_up("the run went back to an earlier step")
