"""What is kept of the activations: values that do nothing beside others."""

from __future__ import annotations

from lumina.config.rules.rule import Rule
from lumina.config.settings import Settings


def without_effect(settings: Settings) -> dict[str, str]:
    """Options of activations without effect, and why."""
    if settings.system.gradient_checkpointing == "budget":
        return {}
    return {"activation_budget": "gradient_checkpointing is not budget"}


RULE = Rule(without_effect=without_effect)
