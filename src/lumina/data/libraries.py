"""Libraries that only some data needs; they are loaded where they are used."""

from __future__ import annotations

import importlib
from typing import Any

from lumina.errors import LuminaError


def needed(name: str) -> Any:
    """A library of the extra `data`.

    Raises:
        LuminaError: E003 it is not installed.
    """
    try:
        return importlib.import_module(name)
    except ImportError as error:
        raise LuminaError(
            "E003",
            f"this data needs the library {name.split('.')[0]}: {error}",
            "pip install 'luminaai[data]'",
        ) from None
