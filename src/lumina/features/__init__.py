"""Declarations of switchable features; nothing here applies them, or needs torch."""

from lumina.features.feature import (
    Exclusion,
    Feature,
    active_features,
    check_features,
    requested_features,
)
from lumina.features.registry import FEATURES, check, check_plan

__all__ = [
    "FEATURES",
    "Exclusion",
    "Feature",
    "active_features",
    "check",
    "check_features",
    "check_plan",
    "requested_features",
]
