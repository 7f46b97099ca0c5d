"""The health of a run: every check of `lumina.train.health`, and their score."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from typing import Any, ClassVar

from lumina.plan.plan import Plan
from lumina.train.controls import Change
from lumina.train.health.report import ConvergenceReport
from lumina.train.health.watching import Finding, Watching
from lumina.train.orchestrator.status import watched_status
from lumina.train.rules.rule import Note, Now, Proposal, Rule, register_rule


@register_rule
class TrainingHealth(Rule):
    """Shows every row to the checks; reports alarms and keeps the score.

    An alarm is reported when it begins, and not again while it holds. After the last
    step, how the run has converged is put on record. The rule changes nothing, and so
    sees what differs between ranks, too: time and memory.
    """

    name = "training_health"
    changes: ClassVar[tuple[str, ...]] = ()

    def __init__(self, watching: Watching) -> None:
        self.watching = watching
        self._notes: list[Note] = []

    @classmethod
    def wanted(cls, plan: Plan) -> str | None:
        """On where the Plan measures health."""
        return "health_checks is on" if plan.measures.get("health") else None

    @classmethod
    def made_for(cls, plan: Plan) -> TrainingHealth:
        """With all checks there are."""
        return cls(Watching.of(plan))

    def see(self, row: Mapping[str, Any]) -> None:
        """Show a row to every check."""
        self._tell(self.watching.see(row))
        # The evaluation of the last step is still to come, where there are any.
        if "last_evaluation" not in self.watching.outlook.memory:
            self._report(int(row["step"]))

    def see_evaluation(self, step: int, metrics: Mapping[str, Any]) -> None:
        """Show an evaluation to every check."""
        self._tell(self.watching.see_evaluation(step, metrics))
        self._report(step)

    def changed(self, change: Change, rule: str | None) -> None:
        """Show the checks a change that holds."""
        if change.outcome == "applied":
            self.watching.changed(change.name, change.value)

    def _report(self, step: int) -> None:
        """Keep the convergence report as a note, after the last step."""
        if step != self.watching.outlook.plan.steps:
            return
        report = ConvergenceReport.of(self.watching)
        text = f"convergence report: {report.text}"
        self._notes.append(Note(step, text, {"report": report.to_dict()}, "debug"))

    def _tell(self, findings: Iterable[Finding]) -> None:
        """Keep a note of each alarm that did not hold before."""
        for one in findings:
            if one.new:
                evidence = {
                    "check": one.anomaly,
                    "confidence": round(one.confidence, 3),
                    **one.evidence,
                }
                self._notes.append(Note(one.step, one.text, evidence, one.severity))

    def propose(self, step: int, now: Now) -> Proposal | None:
        """Nothing: a person is told."""
        return None

    def notes(self) -> list[Note]:
        """The alarms since the last call."""
        found, self._notes = self._notes, []
        return found

    def metrics(self) -> dict[str, Any]:
        """The score."""
        return {"training_health_score": self.watching.score}

    def status(self) -> dict[str, Any]:
        """The phase, the score and what is to be expected."""
        return watched_status(self.watching)

    def state(self) -> dict[str, Any]:
        """What the checks remember, and which alarms hold."""
        return self.watching.state()

    def load(self, state: dict[str, Any]) -> None:
        """Go on in the middle of all windows."""
        self.watching.load(state)
