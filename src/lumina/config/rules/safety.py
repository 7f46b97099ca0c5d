"""Optimisations that are proven and watched: what does nothing."""

from __future__ import annotations

from lumina.config.rules.refusing import refuse
from lumina.config.rules.rule import Rule
from lumina.config.sections.safety import SafetySection
from lumina.config.settings import Settings


def without_effect(settings: Settings) -> dict[str, str]:
    """Limits of what is off, and a pretest that is skipped where there is none."""
    mode = settings.safety.safe_optimizations
    if mode == "off":
        leaves = [x for x in SafetySection.model_fields if x != "safe_optimizations"]
        return dict.fromkeys(leaves, "safe_optimizations is off")
    if mode != "prove":
        return {"experimental_skip_pretest": "safe_optimizations is not prove"}
    return {}


def check(settings: Settings) -> None:
    """Refuse switches while a run trains that has to repeat bit for bit.

    Raises:
        LuminaError: E002.
    """
    if settings.safety.safe_optimizations == "background" and (
        settings.system.deterministic
    ):
        refuse(
            "safe_optimizations background switches optimisations on when their "
            "pretests end, and --deterministic repeats bit for bit",
            "use --safe-optimizations prove, which tries them before the first step",
        )


RULE = Rule(check=check, without_effect=without_effect)
