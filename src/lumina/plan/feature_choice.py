"""Which features a run has: named, chosen by themselves, or given up with a reason."""

from __future__ import annotations

from typing import TYPE_CHECKING

from lumina.errors import LuminaError
from lumina.features import (
    FEATURES,
    Feature,
    Machine,
    active_features,
    check_exclusions,
    check_names,
    check_needs,
    conflict,
)
from lumina.model.kinds.table import why_not
from lumina.plan.decisions import source_of
from lumina.plan.plan import Plan

if TYPE_CHECKING:
    from lumina.config import Config


def check_features(config: Config, machine: Machine) -> None:
    """Refuse features of a Config that cannot be had, before anything is decided.

    Raises:
        LuminaError: E002 for features that exclude each other, E003 for a need that
            the machine does not meet, E005 for a name that no feature has.
    """
    check_names(config)
    check_exclusions(FEATURES, config)
    check_needs(FEATURES, config, machine)


def choose_features(plan: Plan, config: Config, machine: Machine) -> Plan:
    """The Plan with every feature that decides about itself.

    Named ones come first, so that one that chose itself gives way to them.

    Args:
        plan: what is decided so far; memory is not yet shared out.
        config: what was asked for.
        machine: what there is.
    """
    own = [feature for feature in FEATURES.values() if feature.chosen_by_itself]
    for feature in sorted(own, key=lambda feature: not feature.is_requested(config)):
        plan = _chosen(plan, feature, config, machine)
    return plan


def _chosen(plan: Plan, feature: Feature, config: Config, machine: Machine) -> Plan:
    if feature.is_requested(config):
        return _because(feature.switched_on(plan), feature, _source(feature, config))
    if feature.is_refused(config):
        leaf = feature.option or "no_features"
        plan = feature.fallen_back(plan, machine)
        return _because(plan, feature, source_of(config, leaf))
    choice = feature.choose(plan, machine)
    if not choice.on:
        plan = feature.fallen_back(plan, machine)
        return _because(plan, feature, choice.why)
    problem = feature.problem(machine) or _conflict(feature, plan)
    if problem:
        return without(plan, feature, machine, problem)
    return _because(feature.switched_on(plan), feature, choice.why)


def settle_features(plan: Plan, config: Config, machine: Machine) -> Plan:
    """The Plan without automatic choices that do not work, alone or together.

    Raises:
        LuminaError: E003 for a feature that the machine cannot have, E002 for two that
            do not go together, where no option leaves another way.
    """
    for name in active_features(FEATURES, plan):
        feature = FEATURES[name]
        problem, code = feature.problem(machine), "E003"
        if problem is None:
            problem, code = _conflict(feature, plan), "E002"
        if problem is None:
            continue
        if feature.is_requested(config) or not feature.has_fallback:
            if code == "E002" and _gives_way(feature, plan, config):
                continue
            raise LuminaError(code, f"{name} {problem}", f"use {feature.way_out}")
        plan = without(plan, feature, machine, problem)
    return plan


def _gives_way(feature: Feature, plan: Plan, config: Config) -> bool:
    """Whether the other of two features that exclude each other can be given up."""
    found = conflict(FEATURES, feature.name, active_features(FEATURES, plan))
    other = FEATURES[found[0]] if found else None
    return bool(other and other.has_fallback and not other.is_requested(config))


def without(plan: Plan, feature: Feature, machine: Machine, why: str) -> Plan:
    """The Plan without a feature that would have been chosen, and the reason told."""
    plan = _because(feature.fallen_back(plan, machine), feature, why)
    told = f"{feature.name} is left out: it {why}"
    return plan.replace(
        warnings=(*plan.warnings, told), fallbacks=(*plan.fallbacks, told)
    )


def _conflict(feature: Feature, plan: Plan) -> str | None:
    found = conflict(FEATURES, feature.name, active_features(FEATURES, plan))
    if found:
        return f"does not go together with {found[0]}: {found[1]}"
    why = why_not(plan.spec, feature.name)
    return f"does not go with this kind of model: {why}" if why else None


def _because(plan: Plan, feature: Feature, why: str) -> Plan:
    return plan.replace(reasons=plan.reasons | {feature.reason_key: why})


def _source(feature: Feature, config: Config) -> str:
    return source_of(config, feature.option or "features")


def features_with_memory(plan: Plan) -> tuple[str, ...]:
    """The Plan's features whose declaration says what memory they take or save."""
    return tuple(
        name
        for name, feature in FEATURES.items()
        if feature.memory is not None and feature.is_active(plan)
    )
