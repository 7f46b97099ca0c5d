"""The orchestrator as a rule: it watches the run and acts on what is wrong."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from lumina.plan.plan import Plan
from lumina.train.controls import Change
from lumina.train.health.watching import Finding, Watching
from lumina.train.orchestrator import branching
from lumina.train.orchestrator.actions import controls_of_actions
from lumina.train.orchestrator.limits import Limits
from lumina.train.orchestrator.policy import Policy
from lumina.train.orchestrator.status import watched_status
from lumina.train.rules.rule import Note, Now, Proposal, Rule, register_rule


class _OfActions:
    """The controls of all actions and branches, those of plug-ins among them."""

    def __get__(self, rule: object, cls: type) -> tuple[str, ...]:
        return (*controls_of_actions(), branching.SNAPSHOT)


@register_rule
class Orchestrator(Rule):
    """Shows rows and evaluations to the checks, and their findings to the policy.

    Its checks are those that all ranks see alike, apart from those of the rule
    `training_health`, which reports every alarm.
    """

    name = "orchestrator"
    changes = _OfActions()  # type: ignore[assignment]
    precedence = 10

    def __init__(self, plan: Plan) -> None:
        self.watching = Watching.of(plan, ranks_alike=True)
        self.policy = Policy(plan)
        self._found: list[Finding] = []
        self._notes: list[Note] = []

    @classmethod
    def wanted(cls, plan: Plan) -> str | None:
        """On where the Plan says so.

        Raises:
            LuminaError: E004 for an action that there is not.
        """
        if not plan.orchestrator:
            return None
        Limits.of(plan)
        return f"adaptive is {plan.orchestrator['mode']}"

    @classmethod
    def made_for(cls, plan: Plan) -> Orchestrator:
        """With the mode and the limits of the Plan."""
        return cls(plan)

    def see(self, row: Mapping[str, Any]) -> None:
        """Show a row to every check, and its loss to the policy."""
        self._found += self.watching.see(row)
        self.policy.see(row)
        step, every = int(row["step"]), self.policy.limits.report_every
        if every and step % every == 0:
            self._notes.append(self._report(step))

    def see_evaluation(self, step: int, metrics: Mapping[str, Any]) -> None:
        """Show an evaluation to every check."""
        self._found += self.watching.see_evaluation(step, metrics)

    def propose(self, step: int, now: Now) -> Proposal | None:
        """What the policy decides about the findings since the last call."""
        found, self._found = self._found, []
        return self.policy.decide(step, found, now, self.watching.phase)

    def changed(self, change: Change, rule: str | None) -> None:
        """Show the policy what became of a change, and the checks one that holds."""
        if change.outcome == "applied":
            self.watching.changed(change.name, change.value)
        self.policy.changed(change, rule)

    def rolled_back(self, step: int, then: dict[str, Any] | None) -> None:
        """Windows go back to a step; the account of decisions stays."""
        if then is not None:
            self.watching.load(then["watching"])
        self.policy.rolled_back(step, None if then is None else then["policy"])

    def notes(self) -> list[Note]:
        """Decisions, outcomes and reports."""
        found, self._notes = self._notes, []
        return found + self.policy.notes()

    def metrics(self) -> dict[str, Any]:
        """The account of decisions."""
        return self.policy.metrics()

    def status(self) -> dict[str, Any]:
        """The number of decisions, the newest ones, and what is to be expected."""
        ledger = self.policy.ledger
        decided = {"decisions": ledger.total, "recent_decisions": list(ledger.recent)}
        return decided | watched_status(self.watching)

    def _report(self, step: int) -> Note:
        """The health, the phase and the number of decisions."""
        score, phase = self.watching.score, self.watching.phase
        decisions = self.policy.ledger.total
        holding = self.watching.holding
        data = {"score": score, "phase": phase, "holding": holding}
        text = (
            f"health {score} of 100, {phase}, "
            f"{', '.join(holding) or 'no anomaly'}; decisions so far: {decisions}"
        )
        return Note(step, text, data | {"decisions": decisions}, "info", "health_check")

    def state(self) -> dict[str, Any]:
        """The windows of the checks and all that the policy remembers."""
        return {"watching": self.watching.state(), "policy": self.policy.state()}

    def load(self, state: dict[str, Any]) -> None:
        """Go on in the middle of all windows."""
        self.watching.load(state["watching"])
        self.policy.load(state["policy"])
