"""The table of methods: each is a file of `lumina.model.adapters.methods`."""

from __future__ import annotations

from lumina.found_by_name import FoundByName
from lumina.model.adapters.method import Method

METHODS: FoundByName[Method] = FoundByName("lumina.model.adapters.methods")


def register(method: Method) -> Method:
    """Add a method under its name, or replace the one of that name."""
    METHODS[method.name] = method
    return method


def chosen_method(name: str) -> Method:
    """The method of a name.

    Raises:
        LuminaError: E005 for a name that is none.
    """
    return METHODS.chosen(name, f"there is no method {name!r} of adapting a model")
