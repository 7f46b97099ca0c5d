"""One expert that trains alone: what it needs, and which options only it uses."""

from __future__ import annotations

from lumina.config.rules.refusing import refuse
from lumina.config.rules.rule import Rule
from lumina.config.settings import Settings


def check(settings: Settings) -> None:
    """Refuse an expert that has no model to be added to.

    Raises:
        LuminaError: E002.
    """
    if settings.train.expert_id is None:
        return
    if not (settings.train.init_from or settings.run.resume):
        refuse(
            f"expert_id {settings.train.expert_id} has no model to be added to",
            "name one that was trained with experts: --init-from RUN",
        )


def without_effect(settings: Settings) -> dict[str, str]:
    """Options of a named expert without effect, and why."""
    if settings.train.expert_id is not None:
        return {}
    options = ("expert_registry", "default_goal")
    return dict.fromkeys(options, "expert_id names no expert")


RULE = Rule(check=check, without_effect=without_effect)
