"""How a model answers: nothing where it solves puzzles."""

from __future__ import annotations

from lumina.config.rules.rule import Rule
from lumina.config.sections.answering import AnsweringSection
from lumina.config.settings import Settings


def without_effect(settings: Settings) -> dict[str, str]:
    """Options of answers where the model writes no texts."""
    if settings.hrm.use_hrm and settings.hrm.hrm_mode != "language_model":
        return dict.fromkeys(AnsweringSection.model_fields, "puzzles are solved")
    return {}


RULE = Rule(without_effect=without_effect)
