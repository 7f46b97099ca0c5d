"""Asks every rule and every feature what goes together and what has an effect."""

from __future__ import annotations

from lumina.config.rules import ALWAYS, RULES
from lumina.config.settings import Settings
from lumina.features import FEATURES, check_exclusions
from lumina.features.measured import known_rows, known_trouble


def check_combinations(settings: Settings) -> None:
    """Refuse values that contradict each other.

    Options beside `resume` are first laid over the resumed run's own settings; only
    then do all rules apply.

    Raises:
        LuminaError: E002, naming the options, their values and a way out.
    """
    resumes = settings.run.resume is not None
    for rule in ALWAYS if resumes else RULES:
        rule.check(settings)
    if not resumes:
        check_exclusions(FEATURES, settings)


def advise(settings: Settings) -> list[str]:
    """Advice on unusual values, one sentence each, naming option and value."""
    advice = [text for rule in RULES for text in rule.advice(settings)]
    trouble = known_trouble(settings, known_rows())
    return [*advice, *_without_effect(settings), *trouble]


def _without_effect(settings: Settings) -> list[str]:
    """Options that were chosen for this run and do nothing beside the others."""
    found: dict[str, str] = {}
    for rule in RULES:
        found |= rule.without_effect(settings)
    return [
        f"{leaf} is set but has no effect: {why}"
        for leaf, why in found.items()
        if settings.is_chosen(leaf) and not settings.is_default(leaf)
    ]
