"""The rules of a running job, with the arbiter between them."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from typing import Any

from lumina.observe.metric_table import OF_A_RANK
from lumina.plan.plan import Plan
from lumina.train.controls.change import Change
from lumina.train.rules.arbiter import Arbiter, Ruling, needed_by
from lumina.train.rules.rule import RULES, Note, Now, Rule


class RunningRules:
    """The rules of a run: shows them what happens and gives out what was granted.

    Args:
        rules: those that are on.
        pinned: the controls that no rule may change.
        confidence: the least confidence of a change, by how far it can be taken back;
            None: the arbiter's own.
    """

    def __init__(
        self,
        rules: Iterable[Rule] = (),
        pinned: Iterable[str] = (),
        confidence: Sequence[float] | None = None,
    ) -> None:
        self._rules = tuple(rules)
        self._arbiter = Arbiter(pinned, needed_by(confidence))

    @staticmethod
    def of(plan: Plan) -> RunningRules:
        """Those that a Plan has decided on."""
        made = (RULES[name].made_for(plan) for name in plan.rules)
        confidence = plan.orchestrator.get("confidence")
        return RunningRules(made, plan.pinned, confidence)

    def see(self, row: Mapping[str, Any], now: Now) -> None:
        """Show the metrics of a step to every rule, and hear what they propose."""
        if not self._rules:
            return
        shared = {key: row[key] for key in row if key not in OF_A_RANK}
        for rule in self._rules:
            rule.see(shared if rule.changes else row)
        self._hear(row["step"], now)

    def see_evaluation(self, step: int, metrics: Mapping[str, Any], now: Now) -> None:
        """Show an evaluation to every rule, and hear what they propose."""
        for rule in self._rules:
            rule.see_evaluation(step, metrics)
        self._hear(step, now)

    def metrics(self) -> dict[str, Any]:
        """What rules add to the row that they have seen last."""
        return {key: x for rule in self._rules for key, x in rule.metrics().items()}

    def status(self) -> dict[str, Any]:
        """What rules say of themselves."""
        return {key: x for rule in self._rules for key, x in rule.status().items()}

    def notes(self) -> list[tuple[str, Note]]:
        """What rules have found and only tell, each with the kind of its event."""
        return [
            (note.kind or rule.name, note)
            for rule in self._rules
            for note in rule.notes()
        ]

    def changed(self, change: Change, rule: str | None = None) -> None:
        """Tell every rule what became of a change, and which rule proposed it."""
        for each in self._rules:
            each.changed(change, rule)

    def due(self, step: int) -> list[Ruling]:
        """What takes effect after `step` steps."""
        return self._arbiter.due(step)

    def state(self) -> dict[str, Any]:
        """Everything that is remembered, as plain JSON values, for a checkpoint."""
        return {
            "arbiter": self._arbiter.state(),
            "rules": {rule.name: rule.state() for rule in self._rules},
        }

    def load(self, state: dict[str, Any]) -> None:
        """Go on where `state` was taken. A rule that is new begins afresh."""
        if "arbiter" in state:
            self._arbiter.load(state["arbiter"])
        for rule in self._rules:
            if rule.name in state.get("rules", {}):
                rule.load(state["rules"][rule.name])

    def rolled_back(self, step: int, since: int, then: dict[str, Any]) -> None:
        """The run was taken back, and its steps count again.

        Args:
            step: completed steps now.
            since: completed steps before.
            then: what `state` was at `step`.
        """
        self._arbiter.rolled_back(step, since)
        held = then.get("rules", {})
        for rule in self._rules:
            rule.rolled_back(step, held.get(rule.name))

    def _hear(self, step: int, now: Now) -> None:
        proposed = [(rule, rule.propose(step, now)) for rule in self._rules]
        self._arbiter.hear(step, [(r, p) for r, p in proposed if p is not None])
