"""Options that a registered part declares, given as OPTION=VALUE."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

from lumina.config.option_values import value_like
from lumina.errors import LuminaError
from lumina.optim.declared import Option
from lumina.similar_names import did_you_mean


def read_options(
    given: Sequence[str], options: Mapping[str, Option], leaf: str, of: str, form: str
) -> dict[str, Any]:
    """The value of every option: the defaults, and over them what was given.

    Args:
        given: as the setting has them.
        options: what is declared, by name.
        leaf: the setting that gives them, for errors.
        of: what has the options, in the words of an error.
        form: how one is written.

    Raises:
        LuminaError: E005 for an option that there is not, or a value out of range.
    """
    found = {name: option.default for name, option in options.items()}
    for text in given:
        key, equals, written = text.partition("=")
        where = f"{leaf} {text}"
        if not equals or key not in options:
            meant = did_you_mean(key, options)
            raise LuminaError(
                "E005",
                f"{where}: there is no such option of {of}",
                f"{meant}write {form}; there are {', '.join(options) or 'none'}",
            )
        value = value_like(options[key].default, written, where)
        if limits := options[key].limits(value):
            raise LuminaError(
                "E005", f"{where}: {value!r} is out of range", f"it is {limits}"
            )
        found[key] = value
    return found
