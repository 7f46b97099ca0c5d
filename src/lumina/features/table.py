"""The table of features: Lumina's own and those that plug-ins register."""

from __future__ import annotations

from collections.abc import Iterable

from lumina.errors import LuminaError
from lumina.features.abilities import check_abilities
from lumina.features.feature import Feature
from lumina.similar_names import did_you_mean

FEATURES: dict[str, Feature] = {}
"""Feature name -> declaration, in the order of registration."""


def register(feature: Feature) -> Feature:
    """Add a feature to the table. A file of features calls this for each of them.

    Raises:
        LuminaError: E005 for a name that another declaration has already, and for one
            that lacks an ability which there is not.
    """
    before = FEATURES.get(feature.name)
    if before is not None and before != feature:
        raise LuminaError(
            "E005",
            f"there are two features named {feature.name!r}",
            "give yours another name",
        )
    check_abilities(feature.name, feature.lacks)
    FEATURES[feature.name] = feature
    return feature


def find_feature(name: str) -> Feature:
    """The feature of that name; hyphens count as underscores.

    Raises:
        LuminaError: E005, naming the nearest feature.
    """
    key = name.replace("-", "_")
    if key in FEATURES:
        return FEATURES[key]
    hint = did_you_mean(key, FEATURES)
    raise LuminaError(
        "E005",
        f"{name!r} is not a feature",
        f"{hint}`lumina features` lists them all; your own is registered in a file "
        "named with --plugins",
    )


def absent_features(names: Iterable[str]) -> list[str]:
    """Those names that no feature is registered under."""
    return [name for name in names if name not in FEATURES]
