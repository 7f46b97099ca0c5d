"""Versions of the configuration format, and how an older file becomes the present one.

A file that Lumina saved says its version. A step from one version to the next is a
function here: it writes down what an earlier version did where a later one has another
default, so that a run goes on as it began, or gives an option its new name. A file
without a version is of version 1 where Lumina saved it, and of the present one where a
person wrote it.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import Any

from lumina.errors import LuminaError

VERSION = 2
"""The version that is written."""

KEY = "config_version"

Values = dict[str, Any]
"""A configuration file as read: sections, and options beside them."""


def _kept_long_conversations(values: Values) -> None:
    """Version 1 cut conversations that were too long; there was no option."""
    _as_it_was(values, "long_conversations", "cut")


MIGRATIONS: dict[int, Callable[[Values], None]] = {1: _kept_long_conversations}
"""Version -> what changes a file of it into one of the next version."""


def migrated(values: Mapping[str, Any], path: str) -> Values:
    """The content of a file in the present version, without the key of its version.

    Args:
        values: as read.
        path: for an error.

    Raises:
        LuminaError: E005 for a version that is no number, E101 for a newer one.
    """
    now = {key: value for key, value in values.items() if key != KEY}
    version = values.get(KEY, 1 if "asked" in values else VERSION)
    if type(version) is not int or version < 1:
        raise LuminaError(
            "E005",
            f"{path}: {KEY} cannot be {version!r}",
            f"it is 1 to {VERSION}; a file of yours may leave it out",
        )
    if version > VERSION:
        raise LuminaError(
            "E101",
            f"{path} has the format {version} of settings; this version reads up to "
            f"{VERSION}",
            "update the package: pip install --upgrade luminaai",
        )
    for number in range(version, VERSION):
        MIGRATIONS[number](now)
    return now


def _as_it_was(values: Values, leaf: str, value: object) -> None:
    """Write down what was done without an option, where the file does not set it."""
    groups = (values, *(g for g in values.values() if isinstance(g, dict)))
    if any(leaf in group for group in groups):
        return
    values[leaf] = value
    why = "as the version that began the run"
    values["decided"] = dict(values.get("decided") or {}) | {leaf: why}
