"""What a configuration, a Plan and a machine say about features."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from typing import Any

from lumina.errors import LuminaError
from lumina.features.feature import Exclusion, Feature, Machine
from lumina.features.table import FEATURES, find_feature

_LONGEST_VALUE = 40
"""Letters of an option's value that a refusal still repeats."""


def lacking(config: Any, ability: str) -> list[tuple[Feature, str]]:
    """The kinds of model that a Config asks for and that lack an ability, with why.

    Args:
        config: what is asked for.
        ability: a name of `lumina.features.abilities.ABILITIES`.
    """
    return [
        (one, one.lacks[ability])
        for one in FEATURES.values()
        if ability in one.lacks and one.is_requested(config)
    ]


def reason_lacking(config: Any, ability: str) -> str | None:
    """The first of the reasons of `lacking`; None where nothing is lacking."""
    return next((why for _, why in lacking(config, ability)), None)


def shape_lacks(spec: Any, ability: str) -> list[str]:
    """Why a model of a shape lacks an ability, as the kinds among the features say.

    `lumina.model.kinds.table.why_not` asks the kinds of plug-ins, too.
    """
    return [
        one.lacks[ability]
        for one in FEATURES.values()
        if ability in one.lacks and one.of_shape is not None and one.of_shape(spec)
    ]


def requested_features(features: Mapping[str, Feature], config: Any) -> list[str]:
    """Names of the features a Config names."""
    return [name for name, found in features.items() if found.is_requested(config)]


def active_features(features: Mapping[str, Feature], plan: Any) -> list[str]:
    """Names of the features a Plan has."""
    return [name for name, found in features.items() if found.is_active(plan)]


def check_exclusions(features: Mapping[str, Feature], config: Any) -> None:
    """Refuse two features of a Config that exclude each other.

    Raises:
        LuminaError: E002, naming both options and the fix.
    """
    chosen = requested_features(features, config)
    for name in chosen:
        for exclusion in features[name].excludes:
            if exclusion.feature in chosen:
                raise _refusal(features[name], features[exclusion.feature], exclusion,
                               config)  # fmt: skip


def check_needs(features: Mapping[str, Feature], config: Any, machine: Machine) -> None:
    """Refuse a feature that a Config names and the machine cannot have.

    Raises:
        LuminaError: E003, with the fix named.
    """
    for name in requested_features(features, config):
        problem = features[name].problem(machine)
        if problem:
            raise LuminaError(
                "E003", f"{name} {problem}", f"use {features[name].way_out}"
            )


def check_names(config: Any) -> None:
    """Refuse names in `features` and `no_features` that cannot be switched there.

    Raises:
        LuminaError: E005 for a name that no feature has, E002 for a feature with an
            option of its own, and for one that is named in both.
    """
    on, off = config.system.features, config.system.no_features
    for name in (*on, *off):
        feature = find_feature(name)
        if feature.option is not None:
            option = feature.option.replace("_", "-")
            raise LuminaError(
                "E002",
                f"{name} has an option of its own",
                f"use --{option}; to leave it out, {feature.way_out}",
            )
        if name in on and name in off:
            raise LuminaError(
                "E002",
                f"{name} is named in features and in no_features",
                "keep one of the two",
            )


def conflict(
    features: Mapping[str, Feature], name: str, others: Iterable[str]
) -> tuple[str, str] | None:
    """(a feature among `others` that `name` does not go together with, why)."""
    for other in others:
        for one, two in ((name, other), (other, name)):
            for exclusion in features[one].excludes:
                if exclusion.feature == two and one != two:
                    return other, exclusion.reason
    return None


def _refusal(
    one: Feature, other: Feature, exclusion: Exclusion, config: Any
) -> LuminaError:
    leave = f"leave {_option(one)} out, or {_option(other)}"
    return LuminaError(
        "E002",
        f"{named_option(one, config)} and {named_option(other, config)} do not go "
        f"together: {exclusion.reason}",
        exclusion.fix or leave,
    )


def _option(feature: Feature) -> str:
    return feature.option or f"feature {feature.name}"


def named_option(feature: Feature, config: Any) -> str:
    """The option that asks for a feature, with its value where that says more."""
    if feature.option is None:
        return _option(feature)
    value = config.get(feature.option)
    if isinstance(value, bool):
        return feature.option
    text = " ".join(map(str, value)) if isinstance(value, tuple) else str(value)
    if len(text) > _LONGEST_VALUE:
        return feature.option
    return f"{feature.option} {text}"
