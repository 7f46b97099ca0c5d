"""The account of what was found and decided in a run, and what came of it."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import replace
from typing import Any

from lumina.train.orchestrator.decision import DECISION, OUTCOME, Decision, Outcome
from lumina.train.rules.rule import Note

RECENT = 20
"""Decisions that are kept for the status of a run."""

COUNTED: Mapping[str, tuple[str, ...]] = {
    "lr_adjustments": ("learning_rate", "rewarm", "rate_glide"),
    "architecture_changes": (
        "add_expert", "prune_expert", "capacity_factor", "mod_capacity",
    ),
    "rollbacks_performed": ("rollback",),
}  # fmt: skip
"""Metric -> the controls with changes that it counts."""

EMERGENCY = 3
"""The level from which a change is an emergency."""


class Ledger:
    """Numbers and counts decisions, outcomes and anomalies, and reports them.

    Attributes:
        counts: by the name of the metric.
        recent: the newest decisions, as `Decision.to_dict` gives them.
    """

    def __init__(self) -> None:
        self.counts: dict[str, int] = {}
        self.recent: list[dict[str, Any]] = []
        self._notes: list[Note] = []

    @property
    def total(self) -> int:
        """The number of the newest decision; 0 before the first."""
        return self.counts.get("total_decisions", 0)

    def count(self, name: str, by: int = 1) -> None:
        """Count something."""
        self.counts[name] = self.counts.get(name, 0) + by

    def decided(self, decision: Decision) -> Decision:
        """Number a decision and enter it; in shadow mode it has changed nothing."""
        decision = replace(decision, number=self.total + 1)
        self.count("total_decisions")
        self.recent = [*self.recent, decision.to_dict()][-RECENT:]
        acts = bool(decision.control) and decision.mode == "on"
        for name, controls in COUNTED.items():
            self.count(name, int(acts and decision.control in controls))
        grave = acts and decision.level >= EMERGENCY
        self.count("emergency_interventions", int(grave))
        done = "would " if decision.control and not acts else ""
        text = f"{done}{decision.reason} (confidence {decision.confidence:.2f})"
        self._tell(DECISION, decision.to_dict(), text)
        return decision

    def judged(self, outcome: Outcome, changed: bool) -> None:
        """Enter an outcome.

        Args:
            outcome: of a decision.
            changed: whether the decision changed anything.
        """
        for decision in self.recent:
            if decision["number"] == outcome.number:
                decision["outcome"] = outcome.verdict
        better = changed and outcome.verdict == "better"
        self.count("successful_strategies", int(better))
        text = f"decision {outcome.number}: {outcome.verdict}, {outcome.text}"
        self._tell(OUTCOME, outcome.to_dict(), text)

    def _tell(self, kind: str, fields: dict[str, Any], text: str) -> None:
        """An event with the fields but the step, which every event has."""
        step = fields.pop("step")
        self._notes.append(Note(step, text, fields, "info", kind))

    def notes(self) -> list[Note]:
        """The decisions and outcomes since the last call, as events."""
        found, self._notes = self._notes, []
        return found

    def predicted(self, right: bool) -> None:
        """Enter whether the loss of an undisturbed stretch was the predicted one."""
        self.count("predictions")
        self.count("right_predictions", int(right))

    def metrics(self, epoch: float) -> dict[str, Any]:
        """What it adds to a row.

        Args:
            epoch: passes over the data so far.
        """
        total = self.total
        judged = self.counts.get("predictions", 0)
        newest = self.recent[-1]["confidence"] if self.recent else None
        right = self.counts.get("right_predictions", 0)
        names = (
            *COUNTED, "emergency_interventions", "successful_strategies",
            "anomalies_detected", "anomalies_resolved",
        )  # fmt: skip
        return {
            "total_decisions": total,
            "decisions_per_epoch": total / max(epoch, 1.0),
            "decision_confidence": newest,
            "prediction_accuracy": right / judged if judged else None,
            **{name: self.counts.get(name, 0) for name in names},
        }

    def state(self) -> dict[str, Any]:
        """Plain JSON values."""
        return {"counts": dict(self.counts), "recent": list(self.recent)}

    def load(self, state: Mapping[str, Any]) -> None:
        """The inverse of `state`."""
        self.counts, self.recent = dict(state["counts"]), list(state["recent"])
