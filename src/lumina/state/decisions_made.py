"""The decisions in the events of a run, each with what came of it."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field, replace
from typing import Any

from lumina.quantities import known

DECISION, OUTCOME, ROLLED_BACK = "decision", "decision_outcome", "rolled_back"
"""Kinds of events."""


@dataclass(frozen=True)
class Made:
    """One decision, and its outcome where that is known.

    Attributes:
        number: within the run.
        step: when it was made.
        anomaly: what was found.
        action: what was decided; "nothing" is an action.
        level: from 0, doing nothing, to 4.
        mode: "on", or "shadow" where it was only decided and not done.
        confidence: from 0 to 1.
        reason: in words.
        evidence: figures behind it, the phase of training among them.
        control: what it changes; empty for none.
        old: the value before.
        new: the value after it.
        verdict: "better", "same", "worse" or "unclear"; empty while it is not known.
        outcome_step: when that was known.
        measured: what was measured.
        expected: what was expected without the action.
        text: the outcome in words.
        undone: the steps around it were taken again, and it is not part of the run.
    """

    number: int
    step: int
    anomaly: str
    action: str
    level: int = 0
    mode: str = "on"
    confidence: float = 0.0
    reason: str = ""
    evidence: Mapping[str, Any] = field(default_factory=dict)
    control: str = ""
    old: Any = None
    new: Any = None
    verdict: str = ""
    outcome_step: int | None = None
    measured: float | None = None
    expected: float | None = None
    text: str = ""
    undone: bool = False

    @property
    def phase(self) -> str:
        """The phase of training when it was made."""
        return str(self.evidence.get("phase") or "")


def decisions_made(events: Iterable[Mapping[str, Any]]) -> list[Made]:
    """The decisions of a run in the order of its events.

    A decision past the step that a resume goes on from is undone, unless the run was
    rolled back after it and then reached that step again; a decision that led to a
    rollback is therefore kept. One with a number that a later decision has again is
    undone, too. An event without a number or a step is left out.

    Args:
        events: of events.jsonl.
    """
    found: list[Made] = []
    place: dict[int, int] = {}  # number -> where it stands in `found`
    # (target, decisions before) of each rollback while the run went on: its target's
    # checkpoint was written anew then.
    backs: list[tuple[int, int]] = []
    for event in events:
        kind, data = event.get("kind"), event.get("data")
        values = dict(data) if isinstance(data, Mapping) else {}
        values.setdefault("step", event.get("step"))
        if kind == DECISION and (made := _made(values)) is not None:
            if (before := place.get(made.number)) is not None:
                found[before] = replace(found[before], undone=True)
            place[made.number] = len(found)
            found.append(made)
        elif kind == OUTCOME and values.get("number") in place:
            at = place[values["number"]]
            found[at] = _with_outcome(found[at], values)
        elif kind == ROLLED_BACK and "from_step" in values:
            backs.append((event["step"], len(found)))
        elif kind == "resumed" and type(event.get("step")) is int:
            step = event["step"]
            first = max((count for target, count in backs if target <= step), default=0)
            for at in range(first, len(found)):
                if found[at].step > step:
                    place.pop(found[at].number, None)
                    found[at] = replace(found[at], undone=True)
    return found


def _made(values: Mapping[str, Any]) -> Made | None:
    number, step = values.get("number"), values.get("step")
    if type(number) is not int or type(step) is not int:
        return None
    evidence = values.get("evidence")
    return Made(
        number=number,
        step=step,
        anomaly=str(values.get("anomaly") or ""),
        action=str(values.get("action") or ""),
        level=int(known(values.get("level")) or 0),
        mode=str(values.get("mode") or "on"),
        confidence=known(values.get("confidence")) or 0.0,
        reason=str(values.get("reason") or ""),
        evidence=dict(evidence) if isinstance(evidence, Mapping) else {},
        control=str(values.get("control") or ""),
        old=values.get("old"),
        new=values.get("new"),
    )


def _with_outcome(made: Made, values: Mapping[str, Any]) -> Made:
    step = values.get("step")
    return replace(
        made,
        verdict=str(values.get("verdict") or ""),
        outcome_step=step if type(step) is int else None,
        measured=known(values.get("measured")),
        expected=known(values.get("expected")),
        text=str(values.get("text") or ""),
    )
