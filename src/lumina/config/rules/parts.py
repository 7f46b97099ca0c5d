"""Registered parts: how their options are written."""

from __future__ import annotations

from lumina.config.rules.refusing import refuse
from lumina.config.rules.rule import Rule
from lumina.config.settings import Settings
from lumina.errors import LuminaError


def check(settings: Settings) -> None:
    """Refuse options of parts that are given twice or written otherwise.

    Raises:
        LuminaError: E002 or E005.
    """
    given: set[str] = set()
    for text in settings.parts.part_options:
        key, equals, _ = text.partition("=")
        if key in given:
            refuse(f"part_options sets {key} twice", "keep one of the two")
        given.add(key)
        if not equals or not all(key.partition(".")):
            raise LuminaError(
                "E005",
                f"part_options cannot be {text!r}",
                "write NAME.OPTION=VALUE, as in gated_linear.chunk=32",
            )


RULE = Rule(check=check)
