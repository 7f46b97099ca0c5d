"""The table of adapters: a file of this package each, named like the trainer."""

from __future__ import annotations

from lumina.errors import LuminaError
from lumina.found_by_name import FoundByName
from lumina.measure.adaptive.adapter import Adapter

ADAPTERS = FoundByName[Adapter](__name__)
"""Name -> adapter; each file enters its own."""


def adapter_named(name: str) -> Adapter:
    """The adapter of a name.

    Raises:
        LuminaError: E005 where there is none.
    """
    found = ADAPTERS.found(name)
    if found is None:
        known = ", ".join(ADAPTERS.known())
        raise LuminaError(
            "E005", f"there is no trainer {name!r}", f"choose among {known}"
        )
    return found
