"""What a subject of the configuration checks, advises and finds without effect."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

from lumina.config.settings import Settings


def _passes(settings: Settings) -> None:
    """No values of this subject contradict each other."""


def _no_advice(settings: Settings) -> list[str]:
    """No value of this subject is unusual."""
    return []


def _all_have_effect(settings: Settings) -> dict[str, str]:
    """Every option of this subject has an effect."""
    return {}


@dataclass(frozen=True)
class Rule:
    """The rules of one subject, such as experts, tasks or the run's folder.

    Attributes:
        check: refuses values that contradict each other (E002), and values that are
            nonsense only beside others (E005).
        advice: one sentence for each unusual value, naming option and value.
        without_effect: option -> why it does nothing beside the others.
    """

    check: Callable[[Settings], None] = _passes
    advice: Callable[[Settings], list[str]] = _no_advice
    without_effect: Callable[[Settings], dict[str, str]] = _all_have_effect
