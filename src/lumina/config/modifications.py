"""Changes of a run's settings that a resume asks for under names of their own."""

from __future__ import annotations

from collections.abc import Iterable
from typing import Any

from lumina.config.files import read_value
from lumina.config.layer import Layer
from lumina.config.leaves import convert
from lumina.config.settings import Settings
from lumina.errors import LuminaError

RESETS: dict[str, str] = {
    "reset_optimizer": "optimizer",
    "reset_scheduler": "scheduler",
    "reset_metrics": "metrics",
}
"""Option -> the part of a State that it resets."""

OVERRIDES: dict[str, str] = {
    "override_learning_rate": "learning_rate",
    "override_batch_size": "batch_size",
}
"""Option -> the option of the run that it gives another value."""

MODIFIERS = (*RESETS, *OVERRIDES, "modify_config")
"""Options that act only on a run that is resumed."""


def modifications(settings: Settings) -> dict[str, Any]:
    """The options of the run that are given other values, and these values.

    They win over the same options in a file, in a flag or in Python.

    Raises:
        LuminaError: E002 for an option that is set twice, E004 for one that does not
            exist, E005 for an entry that is not KEY=VALUE or a value of a wrong kind.
    """
    layer = Layer("the resume")
    for option, leaf in OVERRIDES.items():
        if settings.get(option) is not None:
            layer.put(leaf, settings.get(option))
    for name, value in _entries(settings.resuming.modify_config):
        layer.put(name, value)
    return {leaf: convert(leaf, value) for leaf, value in layer.settle().items()}


def _entries(written: Iterable[str]) -> list[tuple[str, object]]:
    found = []
    for text in written:
        name, equals, value = text.partition("=")
        if not equals or not name.strip():
            raise LuminaError(
                "E005",
                f"modify_config cannot be {text!r}",
                "write KEY=VALUE, such as weight_decay=0.05",
            )
        found.append((name.strip(), read_value(value)))
    return found
