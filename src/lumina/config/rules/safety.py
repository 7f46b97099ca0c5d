"""Optimisations that are proven and watched: what does nothing."""

from __future__ import annotations

from lumina.config.rules.rule import Rule
from lumina.config.sections.safety import SafetySection
from lumina.config.settings import Settings


def without_effect(settings: Settings) -> dict[str, str]:
    """Limits of what is off, and a pretest that is skipped where there is none."""
    mode = settings.safety.safe_optimizations
    if mode == "off":
        leaves = [x for x in SafetySection.model_fields if x != "safe_optimizations"]
        return dict.fromkeys(leaves, "safe_optimizations is off")
    if mode == "watch":
        return {"experimental_skip_pretest": "safe_optimizations is not prove"}
    return {}


RULE = Rule(without_effect=without_effect)
