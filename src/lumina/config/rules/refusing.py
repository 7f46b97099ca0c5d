"""Refusing options that do not go together, with the nearest value that would do."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from typing import TYPE_CHECKING, NoReturn

from lumina.errors import LuminaError

if TYPE_CHECKING:
    from lumina.config.settings import Settings


def refuse(message: str, hint: str) -> NoReturn:
    """Refuse a combination of options.

    Args:
        message: the options and their values, and why they do not go together.
        hint: a way out.

    Raises:
        LuminaError: E002.
    """
    raise LuminaError("E002", message, hint)


def set_of(settings: Settings, others: Mapping[str, str]) -> Iterator[tuple[str, str]]:
    """Which of some options are set to anything but off or "standard".

    Args:
        settings: of the run.
        others: option -> why it does not go with another one.
    """
    for leaf, why in others.items():
        value = settings.get(leaf)
        if value and value != "standard":
            yield leaf, why


def divisor_below(number: int, wanted: int) -> int:
    """The largest divisor of `number` that is at most `wanted`."""
    return next(d for d in range(min(wanted, number), 0, -1) if number % d == 0)


def multiple(number: int, of: int) -> int:
    """The multiple of `of` nearest to `number`, at least one."""
    return max(1, round(number / of)) * of
