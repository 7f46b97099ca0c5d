"""Values of options that are written as text beside their name."""

from __future__ import annotations

import json
from typing import Any

from lumina.errors import LuminaError


def value_like(default: Any, written: str, where: str) -> Any:
    """An option's value, of the type of its default.

    Args:
        default: the value that it replaces; None takes a value of any type.
        written: as JSON writes it; a text may stand without quotation marks.
        where: the option as it was given, for the error.

    Raises:
        LuminaError: E005 for a value of another type.
    """
    try:
        value = json.loads(written)
    except ValueError:
        value = written
    if isinstance(default, float) and type(value) is int:
        value = float(value)
    if default is not None and type(value) is not type(default):
        raise LuminaError(
            "E005",
            f"{where}: not a value like the default, {default!r}",
            f"its type is {type(default).__name__}, written as JSON does",
        )
    return value
