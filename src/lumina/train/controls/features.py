"""Switching a feature while a job runs, at the cost that its declaration names."""

from __future__ import annotations

from typing import Any, ClassVar

from lumina.assemble.program import Program
from lumina.errors import LuminaError
from lumina.features import FEATURES, Feature, active_features, conflict
from lumina.guard.pretest import run_pretest
from lumina.model.registry import plugins_of
from lumina.plan.environment import probe
from lumina.plan.figures import with_spec
from lumina.plan.plan import Plan
from lumina.train.controls.control import Control


class FeatureSwitch(Control):
    """A feature on or off, under its name or that of its option."""

    allowed = "a feature is switched by True or False"
    feature: ClassVar[Feature]

    def check_value(self, value: Any) -> None:
        """Refuse a feature that a running job cannot switch, and one that fails here.

        Raises:
            LuminaError: E005 for a value that is neither True nor False, E002 for a
                feature that is decided when a run starts, E003 for a machine that
                cannot have it.
        """
        feature = self.feature
        if feature.change_cost == "restart":
            raise LuminaError(
                "E002",
                f"{feature.name} cannot be switched while a run trains: it is decided "
                "when a run starts",
                f"it is switched by {_option(feature)}, and left out by "
                f"{feature.way_out}",
            )
        if feature.change_cost == "live":
            raise LuminaError(
                "E002",
                f"{feature.name} is not a switch but a number",
                f"change the control {feature.option}",
            )
        if not isinstance(value, bool):
            raise LuminaError(
                "E005", f"{value!r} makes no sense for {self.name}", self.allowed
            )
        possible = feature.can_switch_on if value else feature.has_fallback
        if not possible:
            raise LuminaError(
                "E002",
                f"{feature.name} cannot be switched {'on' if value else 'off'} while a "
                "run trains",
                f"name {_option(feature)} when a run starts",
            )
        if value:
            _try(feature)

    def now(self, program: Program, step: int) -> bool:
        """Whether the Program has the feature."""
        return self.feature.is_active(program.plan)

    def fits(self, program: Program, value: Any) -> bool:
        """Whether the Program was assembled with, or without, the feature."""
        return bool(self.feature.is_active(program.plan) == value)

    def edit(self, plan: Plan, value: Any) -> Plan:
        """The Plan with the feature, or without it.

        Raises:
            LuminaError: E002 for a feature of the Plan that excludes this one.
        """
        feature = self.feature
        if value:
            others = active_features(FEATURES, plan)
            if found := conflict(FEATURES, feature.name, others):
                raise LuminaError(
                    "E002",
                    f"{feature.name} and {found[0]} do not go together: {found[1]}",
                    f"leave out {found[0]}: {FEATURES[found[0]].way_out}",
                )
            plan = feature.switched_on(plan)
        elif feature.is_active(plan):
            plan = feature.fallen_back(plan, probe(plan.device))
        why = f"switched {'on' if value else 'off'} while the run trained"
        plan = plan.replace(reasons=plan.reasons | {feature.reason_key: why})
        return with_spec(plan, plan.spec)


def switch_of(name: str) -> Control | None:
    """The switch of a feature, by its name or its option; None: there is none."""
    for feature in FEATURES.values():
        if name in (feature.name, feature.option):
            by_name = ("features", "no_features")
            settings = (feature.option,) if feature.option else by_name
            declared = {"name": name, "feature": feature, "settings": settings}
            switch: Control = type("FeatureSwitch", (FeatureSwitch,), declared)()
            return switch
    return None


def check_restarts(before: Plan, after: Plan) -> None:
    """Refuse to assemble a Plan that switches a feature which needs another start.

    Raises:
        LuminaError: E002, naming the feature.
    """
    for name, feature in FEATURES.items():
        switched = feature.is_active(before) != feature.is_active(after)
        if switched and feature.change_cost == "restart":
            raise LuminaError(
                "E002",
                f"this would switch {name} while the run trains, and it is decided "
                "when a run starts",
                f"it is switched by {_option(feature)}, and left out by "
                f"{feature.way_out}",
            )


def _option(feature: Feature) -> str:
    if feature.option is None:
        return f"--features {feature.name}"
    return f"--{feature.option.replace('_', '-')}"


def _try(feature: Feature) -> None:
    """Refuse a feature that this machine cannot have, or that fails its pretest.

    Raises:
        LuminaError: E003.
    """
    problem = feature.problem(probe())
    if problem is None and feature.pretest is not None:
        found = run_pretest(feature.name, plugins_of(feature.pretest))
        problem = f"fails its pretest on this machine: {found.problem}"
        if found.passed:
            return
    if problem is not None:
        raise LuminaError("E003", f"{feature.name} {problem}", "leave it off")
