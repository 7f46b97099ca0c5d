"""What was changed while the run went on: by which rule or person, and why."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from lumina import quantities as q
from lumina.observe.report.record import Record, data_of
from lumina.state.decisions_made import Made, decisions_made

MOST = 200


def decisions(record: Record) -> list[dict[str, str]]:
    """The journal of changes in the order of their steps; the latest `MOST`.

    Each has `step`, `by`, `change`, `why`, `outcome` and `applied` ("yes" or "").
    """
    changes = [e for e in record.events if e.get("kind") == "control"]
    return [_row(event.get("step"), data_of(event)) for event in changes[-MOST:]]


def about_anomalies(record: Record) -> list[tuple[str, ...]]:
    """The decisions of the orchestrator, by step; the latest `MOST`.

    Each has the step, the phase, what was found, the decision, why, how sure it was,
    and what came of it.
    """
    made = [one for one in decisions_made(record.events) if not one.undone]
    return [
        (
            f"{one.step:,}",
            one.phase.lower(),
            one.anomaly,
            _decision(one),
            one.reason,
            f"{one.confidence:.2f}",
            f"{one.verdict}: {one.text}" if one.verdict else "not measured",
        )
        for one in made[-MOST:]
    ]


def in_words(made: Made) -> str:
    """A decision and its outcome, for the mark on a curve."""
    sure = f"confidence {made.confidence:.2f}"
    outcome = made.verdict or "not measured"
    return f"{outcome}: {_decision(made)} against {made.anomaly} ({sure})"


def _decision(made: Made) -> str:
    shown = made.action
    if made.control:
        shown += f": {made.control} {_short(made.old)} → {_short(made.new)}"
    return f"in shadow: {shown}" if made.mode == "shadow" else shown


def _row(step: Any, data: Mapping[str, Any]) -> dict[str, str]:
    by = data.get("rule") or data.get("source") or "user"
    confidence = data.get("confidence")
    why = [str(data.get("reason") or "")]
    evidence = data.get("evidence")
    if isinstance(evidence, Mapping) and evidence:
        listed = ", ".join(f"{k} {_short(v)}" for k, v in evidence.items())
        why.append(f"evidence: {listed}")
    if confidence is not None:
        why.append(f"confidence {_short(confidence)}")
    if data.get("reversal"):
        why.append(f"goes back when {data['reversal']}")
    outcome = str(data.get("outcome") or "")
    return {
        "step": q.UNKNOWN if step is None else _short(step),
        "by": f"rule {by}" if data.get("rule") else str(by),
        "change": (
            f"{data.get('name')}: {_short(data.get('old'))} → "
            f"{_short(data.get('value'))}"
        ),
        "why": "; ".join(filter(None, why)),
        "outcome": outcome,
        "applied": "yes" if outcome == "applied" else "",
    }


def _short(value: Any) -> str:
    if isinstance(value, bool) or not isinstance(value, int | float):
        return str(value)
    return f"{value:,}" if isinstance(value, int) else f"{value:.4g}"
