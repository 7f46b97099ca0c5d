"""Every switchable feature there is; help, validation, plan and docs come from here."""

from __future__ import annotations

from typing import Any

from lumina.features.feature import (
    Feature,
    Machine,
    active_features,
    check_features,
    requested_features,
)
from lumina.features.model_features import MODEL_FEATURES
from lumina.features.system_features import SYSTEM_FEATURES
from lumina.features.training_features import TRAINING_FEATURES

FEATURES: dict[str, Feature] = {
    feature.name: feature
    for feature in (*SYSTEM_FEATURES, *MODEL_FEATURES, *TRAINING_FEATURES)
}
"""Feature name -> declaration."""


def check(config: Any, machine: Machine) -> None:
    """Refuse a Config whose features the machine cannot have or that exclude others.

    Raises:
        LuminaError: E002 or E003, with the fix named.
    """
    check_features(FEATURES, requested_features(FEATURES, config), machine)


def check_plan(plan: Any, machine: Machine) -> None:
    """The same for what a Plan decided.

    Raises:
        LuminaError: E002 or E003, with the fix named.
    """
    check_features(FEATURES, active_features(FEATURES, plan), machine)
