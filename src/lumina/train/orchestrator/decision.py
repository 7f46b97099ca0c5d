"""What the orchestrator decided, and what came of it, as events.jsonl holds them."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import asdict, dataclass, field
from typing import Any, Literal

Mode = Literal["shadow", "on"]

Verdict = Literal["better", "same", "worse", "unclear"]

Measured = Literal["loss", "seconds", "memory"]
"""What says whether a change has helped."""

DECISION, OUTCOME = "decision", "decision_outcome"
"""Kinds of the events."""

NOTHING = "nothing"
"""The action of a decision to change nothing."""

UNDO = "undo"
"""The action of taking back a change that made things worse."""


@dataclass(frozen=True)
class Decision:
    """One decision; the fields are those of its event.

    Attributes:
        number: counts the decisions of a run, from 1.
        step: of the row or evaluation that led to it.
        anomaly: what was found.
        action: what is done; "nothing" where the run is deliberately left alone.
        level: how far the action interferes, 0 (not at all) to 4 (it ends the run).
        mode: "on", or "shadow" for a decision that changes nothing.
        confidence: how sure the orchestrator is of the action, from 0 to 1.
        reason: a sentence.
        evidence: the figures that led to it.
        control: the control that is changed; empty for none.
        old: its value before.
        new: its value afterwards.
    """

    number: int
    step: int
    anomaly: str
    action: str
    level: int
    mode: Mode
    confidence: float
    reason: str
    evidence: Mapping[str, Any] = field(default_factory=dict)
    control: str = ""
    old: Any = None
    new: Any = None

    def to_dict(self) -> dict[str, Any]:
        """Plain JSON values; `Decision(**values)` is the inverse."""
        return asdict(self) | {"evidence": dict(self.evidence)}


@dataclass(frozen=True)
class Outcome:
    """What came of a decision; the fields are those of its event.

    Attributes:
        number: of the decision.
        step: of the row that completed the measurement.
        verdict: whether the run does better than it was expected to without the
            decision; "unclear" where that could not be measured.
        measured: mean loss of the steps that were measured; None: there are none. Of a
            change that is about time or memory: median seconds or share in use.
        expected: the loss that was predicted for them without the decision; likewise
            the median before it.
        text: a sentence.
    """

    number: int
    step: int
    verdict: Verdict
    measured: float | None
    expected: float | None
    text: str

    def to_dict(self) -> dict[str, Any]:
        """Plain JSON values; `Outcome(**values)` is the inverse."""
        return asdict(self)
