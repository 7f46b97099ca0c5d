"""How a run changes itself: the mode and the limits of its orchestrator."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from lumina.errors import LuminaError
from lumina.plan.decisions import Decisions, source_of
from lumina.plan.plan import Plan
from lumina.plan.safety import decide_safety

if TYPE_CHECKING:
    from lumina.config import Config

COOLDOWN_SHARE, LEAST_COOLDOWN, MOST_COOLDOWN = 0.05, 5, 100
"""Steps between two changes: this share of the run's steps, between these bounds."""


def decide_orchestrator(config: Config, decisions: Decisions) -> None:
    """Decide `Plan.orchestrator`, which is empty where it is off, and `Plan.safe`.

    Raises:
        LuminaError: E002 for branches of a run that does not change itself.
    """
    # No option sets it: the orchestrator changes it, or a person, as a control.
    decisions.decide("bucket_mb", Plan.bucket_mb, "what PyTorch's DDP begins with")
    asked = config.adaptive
    found: dict[str, Any] = {}
    if asked.adaptive != "off":
        share = round(COOLDOWN_SHARE * decisions.values["steps"])
        usual = min(max(share, LEAST_COOLDOWN), MOST_COOLDOWN)
        found = {
            "mode": asked.adaptive,
            "levels": list(asked.adaptive_levels),
            "confidence": [
                asked.adaptive_confidence_undo,
                asked.adaptive_confidence_rollback,
                asked.adaptive_confidence_final,
            ],
            "cooldown_steps": asked.adaptive_cooldown_steps or usual,
            "cooldown_tokens": asked.adaptive_cooldown_tokens,
            "rollbacks": asked.adaptive_rollbacks,
            "without": list(asked.adaptive_without),
            "report_every": asked.health_check_interval,
        }
    if asked.adaptive_branches:
        if asked.adaptive != "on":
            raise LuminaError(
                "E002",
                "adaptive_branches measures changes, and nothing changes the run",
                "add --adaptive on, or leave --adaptive-branches out",
            )
        found["branches"] = asked.adaptive_branches
    decisions.decide("orchestrator", found, source_of(config, "adaptive"))
    decide_safety(config, decisions)
