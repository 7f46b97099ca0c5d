"""Data: how options of its kind are written, and which options have no effect."""

from __future__ import annotations

from lumina.config.rules.refusing import refuse
from lumina.config.rules.rule import Rule
from lumina.config.settings import Settings
from lumina.errors import LuminaError


def check(settings: Settings) -> None:
    """Refuse options of data that are not written as NAME=VALUE, or written twice.

    Raises:
        LuminaError: E002 or E005.
    """
    given: set[str] = set()
    for text in settings.data.data_options:
        name, equals, _ = text.partition("=")
        if name in given:
            refuse(f"data_options sets {name} twice", "keep one of the two")
        given.add(name)
        if not equals or not name:
            raise LuminaError(
                "E005", f"data_options cannot be {text!r}", "write NAME=VALUE"
            )


RULE = Rule(check=check)
