"""What a switchable feature declares about itself. Nothing here needs torch."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from typing import Any, Literal, Protocol

from lumina.features.crossing import Crossing
from lumina.features.trial import Trial

ChangeCost = Literal["live", "reassemble", "restart"]
"""What it takes to switch a feature while a run trains: a scalar that the next step
reads; the State captured and assembled again; or another start of the run."""


class Machine(Protocol):
    """What a feature may ask about the machine (`lumina.plan.environment`)."""

    @property
    def device(self) -> str:
        """ "cpu", "cuda" or "mps"."""

    @property
    def device_name(self) -> str:
        """The chip's own name."""

    @property
    def memory_bytes(self) -> int:
        """Memory of one device."""

    @property
    def cores(self) -> int:
        """CPU cores this process may use."""

    @property
    def capability(self) -> tuple[int, int] | None:
        """CUDA compute capability."""

    @property
    def compiler(self) -> bool:
        """Whether kernels can be built."""

    @property
    def compiler_detail(self) -> str:
        """What was found or is missing."""

    @property
    def failed_pretests(self) -> Mapping[str, str]:
        """Feature -> why its pretest failed on this machine."""


@dataclass(frozen=True)
class Exclusion:
    """Another feature that does not go together with the one that declares this.

    Attributes:
        feature: its name.
        reason: why not.
        fix: what to do; empty: leave one of the two out.
    """

    feature: str
    reason: str
    fix: str = ""


@dataclass(frozen=True)
class Choice:
    """What a feature is in a run where no option switches it.

    Attributes:
        on: whether the run has it.
        why: the reason, for the Plan.
    """

    on: bool
    why: str


def runs_anywhere(machine: Machine) -> str | None:
    """The needs of a feature that every machine meets."""
    return None


def only_when_named(plan: Any, machine: Machine) -> Choice:
    """The choice of a feature that is off unless an option names it."""
    return Choice(False, "off unless it is named")


@dataclass(frozen=True)
class Feature:
    """One switchable optimisation or behaviour.

    A feature without an `option` of its own is switched by `--features NAME` and
    `--no-features NAME`, and a Plan lists it in `Plan.features`; then `requested`,
    `refused`, `active`, `switch_on` and `fallback` need not be declared.

    Attributes:
        name: unique.
        summary: what it is, in one line.
        option: the leaf of the configuration that switches it, if it has one.
        without: what to write to leave it out.
        change_cost: what switching it takes while a run trains.
        plan_field: the field of a Plan that holds it, whose reason is the feature's;
            default: the option.
        requested: whether a Config names it ("auto" names nothing).
        refused: whether a Config leaves it out by name.
        active: whether a Plan has it; default: what `of_shape` says of its model.
        of_shape: whether a model's shape has it, for a feature that is a kind of model.
        lacks: what a model with it cannot do: a name of `lumina.features.abilities`
            -> why not, as the refusals there say it.
        needs: why a machine cannot have it, or None.
        excludes: features that it does not go together with.
        automatic: what it is where a Config neither names it nor leaves it out; takes
            the Plan as far as it is decided, before memory is shared out, and the
            machine. None: other code decides (precision, attention, what memory needs).
        switch_on: the Plan with the feature.
        fallback: the Plan without it, for a machine where it does not work; None:
            there is no other way to train what was asked for.
        memory: bytes to add on one device, or to take away, by component of
            `lumina.plan.memory.COMPONENTS`; takes the model's shape and the layout of
            a step.
        leaves: what of it is not on the device in the optimizer's step, by component.
        elsewhere: bytes of one process that live beside its device: in host memory
            ("host") and in files of the offload folder ("disk"); takes what `memory`
            takes.
        crosses: what passes between the device and such a place in a step, by place;
            takes what `memory` takes.
        build: changes the network before its blocks are compiled and sharded, without
            changing the name of a parameter; takes the network, on the meta device,
            and the Plan. The function, or its "module:name".
        pretest: tries the feature on this machine, in a process of its own, and
            returns why it does not work, or None. The function, or its "module:name".
        tries_first: whether the pretest runs before every run that has the feature;
            otherwise what `lumina pretests run` found last on this machine holds.
        claim: of an optimisation that the guard can judge (`lumina.guard.judge`):
            "exact" for one that computes what a run without it computes, up to
            rounding; "fp8" for one that quantises to 8 bits; "" for what is no such
            thing.
        faster: whether it claims to be faster; otherwise it saves memory.
        trial: how `lumina matrix` tries it beside others; None: it does not.
    """

    name: str
    summary: str
    option: str | None = None
    without: str = ""
    change_cost: ChangeCost = "reassemble"
    plan_field: str | None = None
    requested: Callable[[Any], bool] | None = None
    refused: Callable[[Any], bool] | None = None
    active: Callable[[Any], bool] | None = None
    of_shape: Callable[[Any], bool] | None = None
    lacks: Mapping[str, str] = field(default_factory=dict)
    needs: Callable[[Machine], str | None] = runs_anywhere
    excludes: tuple[Exclusion, ...] = ()
    automatic: Callable[[Any, Machine], Choice] | None = None
    switch_on: Callable[[Any], Any] | None = None
    fallback: Callable[[Any, Machine], Any] | None = None
    memory: Callable[[Any, Any], Mapping[str, int]] | None = None
    leaves: Callable[[Any, Any], Mapping[str, int]] | None = None
    elsewhere: Callable[[Any, Any], Mapping[str, int]] | None = None
    crosses: Callable[[Any, Any], Mapping[str, Crossing]] | None = None
    build: Callable[[Any, Any], None] | str | None = None
    pretest: Callable[[Machine], str | None] | str | None = None
    tries_first: bool = True
    claim: Literal["", "exact", "fp8"] = ""
    faster: bool = False
    trial: Trial | None = None

    @property
    def way_out(self) -> str:
        """What to write to leave the feature out."""
        return self.without or f"--no-features {self.name}"

    @property
    def reason_key(self) -> str:
        """Where a Plan's reasons explain the feature."""
        return self.plan_field or self.option or f"features.{self.name}"

    def is_requested(self, config: Any) -> bool:
        """Whether a Config names the feature."""
        if self.requested is not None:
            return self.requested(config)
        return self.name in config.system.features

    def is_refused(self, config: Any) -> bool:
        """Whether a Config leaves the feature out by name."""
        if self.refused is not None:
            return self.refused(config)
        return self.option is None and self.name in config.system.no_features

    def is_active(self, plan: Any) -> bool:
        """Whether a Plan has the feature."""
        if self.active is not None:
            return self.active(plan)
        if self.of_shape is not None:
            return self.of_shape(plan.spec)
        return self.name in plan.features

    def choose(self, plan: Any, machine: Machine) -> Choice:
        """What the feature is where no option switches it."""
        return (self.automatic or only_when_named)(plan, machine)

    @property
    def chosen_by_itself(self) -> bool:
        """Whether its own declaration decides about it, not other code of the plan."""
        return self.option is None or self.automatic is not None

    @property
    def has_fallback(self) -> bool:
        """Whether a Plan can do without the feature."""
        return self.option is None or self.fallback is not None

    @property
    def can_switch_on(self) -> bool:
        """Whether a Plan can be given the feature."""
        return self.option is None or self.switch_on is not None

    def switched_on(self, plan: Any) -> Any:
        """The Plan with the feature."""
        if self.switch_on is not None:
            return self.switch_on(plan)
        names = dict.fromkeys([*plan.features, self.name])
        return plan.replace(features=tuple(names))

    def fallen_back(self, plan: Any, machine: Machine) -> Any:
        """The Plan without the feature."""
        if self.fallback is not None:
            return self.fallback(plan, machine)
        names = tuple(name for name in plan.features if name != self.name)
        return plan.replace(features=names)

    def problem(self, machine: Machine) -> str | None:
        """Why this machine cannot have the feature, or None."""
        unmet = self.needs(machine)
        if unmet:
            return unmet
        failed = machine.failed_pretests.get(self.name)
        return f"fails its pretest on this machine: {failed}" if failed else None
