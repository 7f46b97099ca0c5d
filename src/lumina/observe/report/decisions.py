"""What was changed while the run went on: by which rule or person, and why."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from lumina import quantities as q
from lumina.observe.report.record import Record, data_of

MOST = 200


def decisions(record: Record) -> list[dict[str, str]]:
    """The journal of changes in the order of their steps; the latest `MOST`.

    Each has `step`, `by`, `change`, `why`, `outcome` and `applied` ("yes" or "").
    """
    changes = [e for e in record.events if e.get("kind") == "control"]
    return [_row(event.get("step"), data_of(event)) for event in changes[-MOST:]]


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
