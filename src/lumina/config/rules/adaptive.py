"""The orchestrator: limits that make no sense, and limits of one that is off."""

from __future__ import annotations

from lumina.config.rules.refusing import refuse
from lumina.config.rules.rule import Rule
from lumina.config.sections.adaptive import AdaptiveSection
from lumina.config.settings import Settings


def check(settings: Settings) -> None:
    """Refuse levels that there are not.

    Raises:
        LuminaError: E002.
    """
    levels = settings.adaptive.adaptive_levels
    if not set(levels) <= {1, 2, 3, 4}:
        refuse(
            f"adaptive_levels are {' '.join(map(str, levels))}",
            "name some of the levels 1, 2, 3 and 4",
        )


def without_effect(settings: Settings) -> dict[str, str]:
    """The limits of an orchestrator that is off."""
    if settings.adaptive.adaptive != "off":
        return {}
    leaves = [leaf for leaf in AdaptiveSection.model_fields if leaf != "adaptive"]
    return dict.fromkeys(leaves, "adaptive is off")


RULE = Rule(check=check, without_effect=without_effect)
