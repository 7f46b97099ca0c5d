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
from lumina.features import lacking

_OTHER_DATA = {
    "train_data": "every source names its own data",
    "eval_data": "name held-out files with source_eval_data",
    "tasks": "tasks have a head each, sources have one vocabulary and one head",
}
"""Options of the data that do not go together with sources, and why."""

_SHARES = ("source_weights", "source_temperature", "source_schedule")
"""Options that say the shares of the sources: one of them at most."""

_READ_FROM = {"quality": "quality_field", "loss": "score_model"}
"""Scores of rows that are read from somewhere, and the option that says where."""

SOURCE_OPTIONS = ("source_eval_data", *_SHARES)


def check(settings: Settings) -> None:
    """Refuse sources and shares that make no sense.

    Raises:
        LuminaError: E005 for an entry that is none, E002 for settings that do not go
            together.
    """
    names = tuple(source_paths(settings))
    held_out = source_eval_paths(settings)
    _check_orders(settings)
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


def _check_orders(settings: Settings) -> None:
    """Refuse two orders of the rows at once, and an order that the data cannot have."""
    mixture, loading = settings.mixture, settings.loading
    if mixture.curriculum and mixture.sample_by:
        refuse(
            f"curriculum {mixture.curriculum} and sample_by {mixture.sample_by} are "
            "two orders of the same rows",
            "keep one of the two",
        )
    for score, leaf in _READ_FROM.items():
        used = score in (mixture.curriculum, mixture.sample_by)
        given, option = settings.get(leaf), f"--{leaf.replace('_', '-')}"
        if used and not given:
            refuse(
                f"the rows are ordered by their {score}, and no {leaf} says it",
                f"name {option}",
            )
        if given and not used:
            refuse(
                f"{leaf} {given} is read where rows are ordered by their {score}, and "
                "they are not",
                f"add --curriculum {score} or --sample-by {score}, or leave {option} "
                "out",
            )
    for leaf in ("curriculum", "sample_by"):
        if not settings.get(leaf):
            continue
        others = {
            "linear_dataset": loading.linear_dataset,
            "no_packing": not loading.packing,
            "data_loading streaming": loading.data_loading == "streaming",
            "data_kind": settings.data.data_kind is not None,
        }
        found = [f"{other} is set" for other, given in others.items() if given]
        found += [why for _, why in lacking(settings, "row_order")]
        if found:
            refuse(
                f"{leaf} orders the packed rows of a store, and {found[0]}",
                "leave one of the two out",
            )


def without_effect(settings: Settings) -> dict[str, str]:
    """Options of sources without effect, and why."""
    names = source_paths(settings).keys()
    unused: dict[str, str] = {}
    if not settings.mixture.curriculum:
        why = "there is no curriculum"
        unused |= dict.fromkeys(("curriculum_epochs", "curriculum_spread"), why)
    if not settings.mixture.sample_by:
        unused["sample_power"] = "there is no sample_by"
    if not names:
        return unused | dict.fromkeys(SOURCE_OPTIONS, "there are no sources")
    if len(names) == 1:
        unused |= dict.fromkeys(_SHARES, "there is only one source")
    if names <= source_eval_paths(settings).keys():
        unused["eval_fraction"] = "source_eval_data is given for every source"
    return unused


RULE = Rule(check=check, without_effect=without_effect)
