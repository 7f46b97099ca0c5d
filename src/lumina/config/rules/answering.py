"""How a model answers: nothing where it solves puzzles."""

from __future__ import annotations

from lumina.config.rules.rule import Rule
from lumina.config.sections.answering import AnsweringSection
from lumina.config.settings import Settings
from lumina.features import reason_lacking


def without_effect(settings: Settings) -> dict[str, str]:
    """Options of answers where the model writes no texts."""
    why = reason_lacking(settings, "answers")
    return dict.fromkeys(AnsweringSection.model_fields, why) if why else {}


RULE = Rule(without_effect=without_effect)
