"""Logs: options that do nothing without a file."""

from __future__ import annotations

from lumina.config.rules.rule import Rule
from lumina.config.settings import Settings


def without_effect(settings: Settings) -> dict[str, str]:
    """Options of the log file where there is none."""
    if settings.logging.log_file is not None:
        return {}
    names = ("log_format", "log_rotate_mib", "log_keep")
    return dict.fromkeys(names, "there is no log_file")


RULE = Rule(without_effect=without_effect)
