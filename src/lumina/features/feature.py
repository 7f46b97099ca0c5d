"""What a switchable feature declares about itself, and how declarations are checked."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass
from typing import Any, Literal, Protocol

from lumina.errors import LuminaError

Stage = Literal["process environment", "plan", "build", "parallelise", "step"]
"""Where a feature is applied."""

ChangeCost = Literal["live", "recompile", "reassemble", "restart"]
"""What it takes to switch a feature while a run goes on."""


class Machine(Protocol):
    """The part of `lumina.plan.environment.Environment` that needs ask about."""

    @property
    def device(self) -> str:
        """ "cpu" or "cuda"."""

    @property
    def device_name(self) -> str:
        """The chip's own name."""

    @property
    def capability(self) -> tuple[int, int] | None:
        """CUDA compute capability."""

    @property
    def compiler(self) -> bool:
        """Whether kernels can be built."""

    @property
    def compiler_detail(self) -> str:
        """What was found or is missing."""


def nothing(machine: Machine) -> str | None:
    """The needs of a feature that runs anywhere."""
    return None


def never(plan: Any) -> bool:
    """For a feature that leaves no trace in a Plan."""
    return False


@dataclass(frozen=True)
class Exclusion:
    """Another feature this one does not go with.

    Attributes:
        feature: its name.
        reason: why not.
        source: where that is known from.
        fix: what to do.
    """

    feature: str
    reason: str
    source: str
    fix: str


@dataclass(frozen=True)
class Feature:
    """One switchable optimisation or behaviour.

    Attributes:
        name: unique.
        option: the leaf of the configuration that switches it.
        summary: what it is, in one line.
        stage: where it is applied.
        change_cost: what switching it takes in a running job.
        requested: whether a Config asks for it by name ("auto" asks for nothing).
        active: whether a Plan has it.
        needs: why a machine cannot have it, or None.
        excludes: features it does not go with.
        memory: its effect on the memory of a device.
        pretest: the name of the guard's test of it, None while there is none.
        observable: what changes when it is on.
        without: what to write to leave it out.
    """

    name: str
    option: str
    summary: str
    stage: Stage
    change_cost: ChangeCost
    requested: Callable[[Any], bool]
    active: Callable[[Any], bool]
    observable: str
    without: str
    needs: Callable[[Machine], str | None] = nothing
    excludes: tuple[Exclusion, ...] = ()
    memory: str = "none"
    pretest: str | None = None


def requested_features(features: Mapping[str, Feature], config: Any) -> list[str]:
    """Names of the features a Config asks for."""
    return [name for name, feature in features.items() if feature.requested(config)]


def active_features(features: Mapping[str, Feature], plan: Any) -> list[str]:
    """Names of the features a Plan has."""
    return [name for name, feature in features.items() if feature.active(plan)]


def check_features(
    features: Mapping[str, Feature], names: Iterable[str], machine: Machine
) -> None:
    """Refuse what the machine cannot do and what does not go together.

    Raises:
        LuminaError: E003 for an unmet need, E002 for two features that exclude each
            other; both name the fix.
    """
    chosen = list(names)
    for name in chosen:
        feature = features[name]
        problem = feature.needs(machine)
        if problem:
            raise LuminaError("E003", f"{name} {problem}", f"use {feature.without}")
        for exclusion in feature.excludes:
            if exclusion.feature in chosen:
                raise LuminaError(
                    "E002",
                    f"{name} and {exclusion.feature} do not go together: "
                    f"{exclusion.reason} ({exclusion.source})",
                    exclusion.fix,
                )
