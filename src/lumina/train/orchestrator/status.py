"""What a run says of its decisions while it goes on."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from lumina.plan.plan import Plan

NO_STATUS: Mapping[str, Any] = {
    "adaptive_decisions_made": 0,
    "meta_learning_runs": 0,
    "monitoring_active": False,
    "recent_decisions": [],
}
"""The status before a run, and of one with no orchestrator."""


def adaptive_status(plan: Plan, rules: Mapping[str, Any]) -> dict[str, Any]:
    """The status of a run that goes on.

    Args:
        plan: of the run.
        rules: what its rules say of themselves.
    """
    decided: list[dict[str, Any]] = rules.get("recent_decisions", [])
    return {
        "adaptive_decisions_made": rules.get("decisions", 0),
        "meta_learning_runs": earlier_runs(plan),
        "monitoring_active": bool(plan.orchestrator),
        "recent_decisions": [_named(one) for one in decided],
    }


def earlier_runs(plan: Plan) -> int:
    """Earlier runs whose outcomes the decisions rest on."""
    return int(plan.orchestrator.get("runs", 0))


def _named(decision: Mapping[str, Any]) -> dict[str, Any]:
    """A decision under the documents' names."""
    same = ("step", "anomaly", "mode", "level", "control", "old", "new", "outcome")
    return {
        "type": decision["action"],
        "reasoning": decision["reason"],
        "confidence": decision["confidence"],
        **{name: decision.get(name) for name in same},
    }
