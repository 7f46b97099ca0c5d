"""Several sources of text: what goes together with them, and what does nothing."""

from __future__ import annotations

from lumina.config.rules.refusing import refuse
from lumina.config.rules.rule import Rule
from lumina.config.settings import Settings
from lumina.config.source_entries import (
    source_eval_paths,
    source_paths,
    weight_points,
    weights_of,
)

_OTHER_DATA = {
    "train_data": "every source names its own data",
    "eval_data": "name held-out files with source_eval_data",
    "tasks": "tasks have a head each, sources have one vocabulary and one head",
}
"""Options of the data that do not go together with sources, and why."""

_SHARES = ("source_weights", "source_temperature", "source_schedule")
"""Options that say the shares of the sources: one of them at most."""

SOURCE_OPTIONS = ("source_eval_data", *_SHARES)


def check(settings: Settings) -> None:
    """Refuse sources and shares that make no sense.

    Raises:
        LuminaError: E005 for an entry that is none, E002 for settings that do not go
            together.
    """
    names = tuple(source_paths(settings))
    held_out = source_eval_paths(settings)
    if not names:
        return
    for leaf, why in _OTHER_DATA.items():
        if settings.get(leaf):
            refuse(
                f"{leaf} {settings.get(leaf)} does not go with sources: {why}",
                f"leave {leaf} out, or sources",
            )
    if strange := sorted(held_out.keys() - set(names)):
        refuse(
            f"source_eval_data names {', '.join(strange)}, which is no source",
            f"sources are {', '.join(names)}",
        )
    given = [leaf for leaf in _SHARES if settings.get(leaf)]
    if len(given) > 1:
        refuse(
            f"{' and '.join(given)} all say the shares of the sources",
            "keep one of them",
        )
    mixture = settings.mixture
    if mixture.source_weights:
        weights_of(mixture.source_weights, names, "source_weights")
    weight_points(mixture.source_schedule, names)


def without_effect(settings: Settings) -> dict[str, str]:
    """Options of sources without effect, and why."""
    names = source_paths(settings).keys()
    if not names:
        return dict.fromkeys(SOURCE_OPTIONS, "there are no sources")
    unused: dict[str, str] = {}
    if len(names) == 1:
        unused |= dict.fromkeys(_SHARES, "there is only one source")
    if names <= source_eval_paths(settings).keys():
        unused["eval_fraction"] = "source_eval_data is given for every source"
    return unused


RULE = Rule(check=check, without_effect=without_effect)
