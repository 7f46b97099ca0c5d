"""A phase of a run as one text, which is how the option `phases` holds it."""

from __future__ import annotations

import shlex
from collections.abc import Mapping

from lumina.errors import LuminaError


def phase_text(values: Mapping[str, object]) -> str:
    """A mapping of a YAML file as one text.

    Raises:
        LuminaError: E005 where it has no name.
    """
    if not isinstance(values.get("name"), str):
        raise LuminaError(
            "E005", f"phases cannot be {dict(values)!r}", "each phase has a name"
        )
    words = []
    for option, value in values.items():
        if option == "name":
            continue
        for one in value if isinstance(value, list | tuple) else (value,):
            text = ("yes" if one else "no") if isinstance(one, bool) else str(one)
            words.append(f"{option}={shlex.quote(text)}")
    return f"{values['name']}: {' '.join(words)}".rstrip()
