"""Declarations of switchable features; nothing here applies them, or needs torch."""

from lumina.features.addresses import resolved
from lumina.features.checks import (
    active_features,
    check_exclusions,
    check_names,
    check_needs,
    conflict,
    lacking,
    named_option,
    reason_lacking,
    requested_features,
    shape_lacks,
)
from lumina.features.feature import Choice, Exclusion, Feature, Machine
from lumina.features.registry import FEATURES
from lumina.features.table import absent_features, find_feature, register
from lumina.features.trial import REDRAWN, ROUNDING, Seen, Tolerance, Trial

__all__ = [
    "FEATURES",
    "REDRAWN",
    "ROUNDING",
    "Choice",
    "Exclusion",
    "Feature",
    "Machine",
    "Seen",
    "Tolerance",
    "Trial",
    "absent_features",
    "active_features",
    "check_exclusions",
    "check_names",
    "check_needs",
    "conflict",
    "find_feature",
    "lacking",
    "named_option",
    "reason_lacking",
    "register",
    "requested_features",
    "resolved",
    "shape_lacks",
]
