"""How options write the sources of a mixture, and the weights of sources."""

from __future__ import annotations

import math
import re
from collections.abc import Iterable, Sequence
from typing import TYPE_CHECKING

from lumina.config.task_paths import paths_by_task
from lumina.errors import LuminaError

if TYPE_CHECKING:
    from lumina.config.settings import Settings

_POINT = re.compile(r"(\d+):(.+)")


BASE, FINETUNING = "base", "finetuning"
"""The names of the sources of `base_training_paths` and `finetuning_paths`."""


def source_paths(settings: Settings) -> dict[str, tuple[str, ...]]:
    """The paths of each source, sources in the order of their first mention."""
    if settings.mixture.sources:
        return paths_by_task(settings.mixture.sources, "sources")
    stages = settings.stages
    return _present(stages.base_training_paths, stages.finetuning_paths)


def source_eval_paths(settings: Settings) -> dict[str, tuple[str, ...]]:
    """The held-out paths of the sources that have files of their own for it."""
    if settings.mixture.source_eval_data:
        return paths_by_task(settings.mixture.source_eval_data, "source_eval_data")
    stages = settings.stages
    return _present(stages.base_eval_paths, stages.finetuning_eval_paths)


def _present(
    base: tuple[str, ...], finetuning: tuple[str, ...]
) -> dict[str, tuple[str, ...]]:
    named = {BASE: base, FINETUNING: finetuning}
    return {name: paths for name, paths in named.items() if paths}


def asked_points(
    settings: Settings, names: Sequence[str]
) -> tuple[tuple[int, tuple[float, ...]], ...] | None:
    """The shares that options say, by the steps from which on they hold.

    None where the shares follow from the sizes of the sources.
    """
    mixture = settings.mixture
    if mixture.source_schedule:
        return weight_points(mixture.source_schedule, names)
    if mixture.source_weights:
        return ((0, weights_of(mixture.source_weights, names, "source_weights")),)
    return None


def watched_sources(settings: Settings) -> tuple[str, ...]:
    """The sources that no row is taken of: their held-out data is only measured."""
    names = tuple(source_paths(settings))
    points = asked_points(settings, names)
    if points is None:
        return ()
    return tuple(
        name
        for place, name in enumerate(names)
        if not any(weights[place] for _, weights in points)
    )


def weights_of(
    entries: Iterable[str], names: Sequence[str], leaf: str
) -> tuple[float, ...]:
    """The share of the rows that each source gets; together one.

    Args:
        entries: NAME=NUMBER, in one text with commas or in several. Where there are two
            sources, a single number is the share of the first one.
        names: the sources.
        leaf: the option, for errors.

    Raises:
        LuminaError: E005 for what is no such entry, E002 where the names are not those
            of the sources.
    """
    parts = [part for entry in entries for part in entry.split(",") if part.strip()]
    share = _number(parts[0]) if len(parts) == 1 else None
    if share is not None:
        if len(names) != 2 or share > 1:
            raise LuminaError(
                "E005",
                f"{leaf} cannot be {parts[0]!r}: a single number is the share, from 0 "
                f"to 1, of the first of two sources, and there are {len(names)}",
                "write NAME=NUMBER for every source",
            )
        return share, 1.0 - share
    found: dict[str, float] = {}
    for part in parts:
        name, equals, text = part.strip().partition("=")
        number = _number(text)
        if not equals or number is None or name in found:
            raise LuminaError(
                "E005",
                f"{leaf} cannot be {part!r}",
                "write NAME=NUMBER once for every source, with numbers from 0",
            )
        found[name] = number
    if set(found) != set(names):
        raise LuminaError(
            "E002",
            f"{leaf} names {', '.join(found)}, and the sources are {', '.join(names)}",
            "give every source one weight",
        )
    return normalised([found[name] for name in names], leaf)


def weight_points(
    entries: Iterable[str], names: Sequence[str]
) -> tuple[tuple[int, tuple[float, ...]], ...]:
    """The points of `source_schedule`: (steps done, the shares from there on).

    Args:
        entries: STEP:WEIGHTS, weights as `weights_of` takes them.
        names: the sources.

    Raises:
        LuminaError: E005 for an entry that is none, and for steps that do not begin at
            0 and rise; E002 as `weights_of`.
    """
    points = []
    for entry in entries:
        found = _POINT.fullmatch(entry.strip())
        if not found:
            raise LuminaError(
                "E005",
                f"source_schedule cannot be {entry!r}",
                "write STEP:WEIGHTS, such as 0:base=0.8,chat=0.2",
            )
        weights = weights_of([found[2]], names, "source_schedule")
        points.append((int(found[1]), weights))
    steps = [step for step, _ in points]
    if steps and (steps[0] != 0 or steps != sorted(set(steps))):
        raise LuminaError(
            "E005",
            f"the steps of source_schedule are {', '.join(map(str, steps))}",
            "begin with 0, and let them rise",
        )
    return tuple(points)


def normalised(weights: Sequence[float], leaf: str) -> tuple[float, ...]:
    """Weights whose sum is one.

    Raises:
        LuminaError: E005 for weights that are negative, not finite, or all 0.
    """
    total = sum(weights)
    if not weights or min(weights) < 0 or not 0 < total < math.inf:
        raise LuminaError(
            "E005",
            f"{leaf} cannot be {list(weights)}",
            "weights are at least 0, and not all of them 0",
        )
    return tuple(weight / total for weight in weights)


def in_words(names: Sequence[str], weights: Sequence[float]) -> str:
    """Shares of sources in a few words: "base 70%, chat 30%"."""
    pairs = zip(names, weights, strict=True)
    return ", ".join(f"{name} {100 * weight:.3g}%" for name, weight in pairs)


def _number(text: str) -> float | None:
    try:
        value = float(text)
    except ValueError:
        return None
    return value if math.isfinite(value) and value >= 0 else None
