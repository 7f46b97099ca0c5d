"""What is done when memory runs out: what does nothing without it."""

from __future__ import annotations

from lumina.config.rules.rule import Rule
from lumina.config.settings import Settings


def without_effect(settings: Settings) -> dict[str, str]:
    """Options of the ladder without effect, and why."""
    if settings.memory_ladder.memory_recovery:
        return {}
    return {"forget_memory_limits": "memory_recovery is off, so nothing is looked up"}


RULE = Rule(without_effect=without_effect)
