"""What a run says of its decisions while it goes on."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from lumina.plan.plan import Plan
from lumina.train.health.watching import Watching

NO_STATUS: Mapping[str, Any] = {
    "adaptive_decisions_made": 0,
    "meta_learning_runs": 0,
    "monitoring_active": False,
    "recent_decisions": [],
    "phase": None,
    "health_score": None,
    "predictions": None,
}
"""The status before a run, and of one that nothing watches."""


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
        **{name: rules.get(name) for name in ("phase", "health_score", "predictions")},
    }


def watched_status(watching: Watching) -> dict[str, Any]:
    """What checks and predictions say of a run.

    Args:
        watching: that has seen its rows.

    Returns:
        `phase`; `health_score`; `predictions` with "loss" (`Prediction.to_dict`, whose
        `reason` says why where there is no prediction) and "failure"
        (`Outlook.failure`); None before the first row.
    """
    predictions = None
    if watching.outlook.memory:
        outlook = watching.outlook
        predictions = {
            "loss": outlook.convergence().to_dict(),
            "failure": outlook.failure(),
        }
    return {
        "phase": watching.phase,
        "health_score": watching.score,
        "predictions": predictions,
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
