"""Adapters as a command names them: `FOLDER`, or `FOLDER=FACTOR`."""

from __future__ import annotations

import math
from collections.abc import Sequence
from pathlib import Path

from lumina.errors import LuminaError
from lumina.model.spec import ModelSpec
from lumina.state.adapters.adapter import Adapter
from lumina.state.adapters.merging import merged
from lumina.state.adapters.reading import read_adapter
from lumina.state.weights import Weights


def folder_and_factor(text: str) -> tuple[Path, float]:
    """Where an adapter is, and the factor of its change.

    Raises:
        LuminaError: E005 for a factor that is no finite number.
    """
    whole = Path(text).expanduser()
    folder, equals, factor = text.rpartition("=")
    if not equals or whole.exists():
        return whole, 1.0
    try:
        number = float(factor)
    except ValueError:
        number = math.nan
    if not folder or not math.isfinite(number):
        raise LuminaError(
            "E005",
            f"--adapter {text}: {factor!r} is no factor",
            "give a folder, or a folder and a number: --adapter FOLDER=0.5",
        )
    return Path(folder).expanduser(), number


def read_named(texts: Sequence[str], spec: ModelSpec) -> list[tuple[Adapter, float]]:
    """The adapters that a command names, each with the factor of its change.

    Raises:
        LuminaError: as `read_adapter`; E002 where one is named twice.
    """
    found = [folder_and_factor(text) for text in texts]
    places = [folder.resolve() for folder, _ in found]
    if len(set(places)) < len(places):
        raise LuminaError(
            "E002",
            f"{max(places, key=places.count)} is named twice",
            "name it once; FOLDER=2 doubles its change",
        )
    return [(read_adapter(folder, spec), factor) for folder, factor in found]


def with_adapters(weights: Weights, texts: Sequence[str]) -> Weights:
    """The weights with the adapters that a command names merged into them.

    Raises:
        LuminaError: as `read_named`.
    """
    return merged(weights, read_named(texts, weights.spec))
