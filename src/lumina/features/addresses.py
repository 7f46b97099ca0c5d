"""Functions that a feature names by their address instead of importing them."""

from __future__ import annotations

import importlib
from collections.abc import Callable
from typing import Any


def resolved(function: Callable[..., Any] | str) -> Callable[..., Any]:
    """The function itself, or the one at an address such as "lumina.ops.norm:check".

    A declaration names a function by its address where its module needs torch, which
    is then imported only when the feature is used.

    Raises:
        ValueError: for a text that is no such address.
    """
    if not isinstance(function, str):
        return function
    module, colon, name = function.partition(":")
    if not colon:
        raise ValueError(f"{function!r} is no address: write MODULE:FUNCTION")
    found: Callable[..., Any] = getattr(importlib.import_module(module), name)
    return found
