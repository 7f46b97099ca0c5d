"""How a run watches its optimisations."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from lumina.plan.decisions import Decisions, source_of

if TYPE_CHECKING:
    from lumina.config import Config

STRIKES = 3
"""Troubles within a window that switch an optimisation off."""


def decide_safety(config: Config, decisions: Decisions) -> None:
    """Decide `Plan.safe`, which is empty where optimisations are not watched.

    A run that has to repeat bit for bit changes nothing by itself: there they are
    proven beforehand, if at all.
    """
    asked = config.safety
    found: dict[str, Any] = {}
    reason = source_of(config, "safe_optimizations")
    if asked.safe_optimizations != "off":
        proves = asked.safe_optimizations == "prove"
        found = {
            "proves": proves and not asked.experimental_skip_pretest,
            "background": asked.safe_optimizations == "background",
            "waiting": [],
            "watches": not config.system.deterministic,
            "window": asked.experimental_safety_window,
            "strikes": STRIKES,
            "spike": asked.experimental_loss_spike_threshold,
            "drop": asked.experimental_throughput_drop_threshold,
        }
        if config.system.deterministic:
            reason += "; --deterministic forbids to switch one while the run trains"
    decisions.decide("safe", found, reason)
