"""Numbers out of an untrusted `config.json`, checked one by one."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from lumina.errors import LuminaError


def count(
    values: Mapping[str, Any], key: str, default: int | None = None, limit: int = 2**40
) -> int:
    """`values[key]`, or `default`, as a positive whole number; else E102."""
    value = values.get(key)
    value = default if value is None else value
    if type(value) is not int or not 0 < value <= limit:
        said = "is missing" if value is None else f"is {value!r}"
        raise LuminaError(
            "E102", f"config.json: {key} {said}", "a positive whole number is needed"
        )
    return value


def positive(
    values: Mapping[str, Any],
    key: str,
    default: float | None = None,
    zero: bool = False,
) -> float:
    """`values[key]`, or `default`, as a positive number (or zero); else E102."""
    value = values.get(key)
    value = default if value is None else value
    if (
        isinstance(value, bool)
        or not isinstance(value, int | float)
        or not (value > 0 or (zero and value == 0))
    ):
        said = "is missing" if value is None else f"is {value!r}"
        raise LuminaError(
            "E102", f"config.json: {key} {said}", "a positive number is needed"
        )
    return float(value)
