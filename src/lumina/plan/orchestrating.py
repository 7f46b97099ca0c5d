"""How the orchestrator of a run decides: its mode and its limits."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from lumina.plan.decisions import Decisions, source_of

if TYPE_CHECKING:
    from lumina.config import Config

COOLDOWN_SHARE, LEAST_COOLDOWN, MOST_COOLDOWN = 0.05, 5, 100
"""Steps between two changes: this share of the run's steps, between these bounds."""


def decide_orchestrator(config: Config, decisions: Decisions) -> None:
    """Decide `Plan.orchestrator`, which is empty where the orchestrator is off."""
    mode = config.adaptive.adaptive
    found: dict[str, Any] = {}
    if mode != "off":
        share = round(COOLDOWN_SHARE * decisions.values["steps"])
        found = {
            "mode": mode,
            "cooldown_steps": min(max(share, LEAST_COOLDOWN), MOST_COOLDOWN),
        }
    decisions.decide("orchestrator", found, source_of(config, "adaptive"))
