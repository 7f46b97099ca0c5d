"""The table of optimizers: what is known of each before a run, without torch.

An optimizer is a class under a decorator::

    @register_optimizer("momentum", words="SGD with momentum",
                        states={"velocity": StateTensor()},
                        options={"momentum": Option(0.9, least=0, below=1)})
    class Momentum(Optimizer): ...

Lumina's own stand in `lumina.optim.methods`, one file each, and a file is imported when
its name is first looked up. Others stand in a file that `--plugins` names.
"""

from __future__ import annotations

import inspect
import math
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import TypeVar

from lumina.errors import LuminaError
from lumina.found_by_name import FoundByName

DENSE_ROLES = (
    "matrix", "embedding", "head", "norm", "bias", "expert", "router", "adapter",
)  # fmt: skip
"""Roles of the tensors that get a gradient of their own size."""

LEAVES = ("embedding", "head", "norm", "bias", "expert", "router")
"""Roles that an optimizer may leave to its `rest` without naming them. Adapters are not
among them: they are the bulk of what trains beside a frozen base, so an optimizer
trains them or says that it does not."""

RESERVED = ("ema", "carry")
"""Names under which a checkpoint holds something else beside the weights."""

C = TypeVar("C", bound=type)

Shape = tuple[int, ...]

Transfer = Callable[[float, Mapping[str, object]], float]
"""(how many times as wide, options of an optimizer) -> the factor of its rate."""


def by_element(width: float, options: Mapping[str, object]) -> float:
    """Of optimizers whose updates have one size in every element, as Adam's have.

    A product over m times as many inputs then moves m times as far.
    """
    return 1.0 / width


ShapeOf = Callable[[Shape, int], Shape | None]
"""(shape of a weight, how many matrices are fused in it) -> the shape of a state."""


@dataclass(frozen=True)
class StateTensor:
    """A tensor that an optimizer keeps for each tensor that it trains.

    Attributes:
        shared: how many leading axes of the weight are also the state's leading axes,
            as the end of a slice: None for all of them, -1 for all but the last. When
            a weight is divided, sharded by rows, or loses or gains an expert along a
            shared axis, so is its state; along any other axis the state is kept whole.
        bytes_per_parameter: memory of the state for each element of the weight, where
            there is no `shape_of`.
        shape_of: the shape of the state, where it is not that of the weight. It returns
            None for a weight that has no such state.
        element: bytes of one element of a state that has `shape_of`.
        coded: whether its values mean something only together with other states, so
            that a mean of several is none.
    """

    shared: int | None = None
    bytes_per_parameter: float = 4.0
    shape_of: ShapeOf | None = None
    element: int = 4
    coded: bool = False

    def bytes_for(self, shape: Shape, pieces: int = 1) -> float:
        """Memory of the state of a weight of that shape.

        Args:
            shape: of the weight.
            pieces: how many matrices are fused in it.
        """
        if self.shape_of is None:
            return self.bytes_per_parameter * math.prod(shape)
        found = self.shape_of(shape, pieces)
        return 0 if found is None else self.element * math.prod(found)

    def shares(self, axis: int, dimensions: int) -> bool:
        """Whether `axis` of a weight of this many dimensions is one of the state."""
        return axis in range(dimensions)[: self.shared]


@dataclass(frozen=True)
class Option:
    """An option that an optimizer has beside those of every run.

    Attributes:
        default: its value where nothing else is given; its type is the option's type.
        least: the smallest value, if there is one.
        below: the option is smaller than this, if there is such a limit.
        choices: the values that a text may have; () for any.
    """

    default: float | int | bool | str
    least: float | None = None
    below: float | None = None
    choices: tuple[str, ...] = ()

    def limits(self, value: object) -> str | None:
        """The limits in words where the value is beyond them, else None."""
        if not isinstance(value, (int, float)):
            unknown = self.choices and value not in self.choices
            return f"one of {', '.join(self.choices)}" if unknown else None
        low = self.least is None or value >= self.least
        high = self.below is None or value < self.below
        if low and high:
            return None
        said = [] if self.least is None else [f"at least {self.least:g}"]
        said += [] if self.below is None else [f"below {self.below:g}"]
        return " and ".join(said)


@dataclass(frozen=True, eq=False)
class Declared:
    """A registered optimizer.

    Attributes:
        name: what `--optimizer` and `--optimizer-groups` call it.
        cls: the class, a `lumina.optim.optimizer.Optimizer`.
        source: the file it stands in.
        words: its name as the banner shows it.
        states: the tensors it keeps for each weight, by name.
        options: the options it has of its own, by name. An option called
            `learning_rate` is the optimizer's own peak rate, which follows the shape
            of the run's schedule; one called `weight_decay` replaces the run's.
        settings: its option -> the option of every run that gives its value.
        roles: roles of the tensors that it can train.
        sharded: whether it can be used where each rank holds only a part of every
            weight, divided by rows.
        averaged: whether `--ema-decay` keeps an average of what it trains.
        dimensions: how many a tensor has at least that it can train.
        rest: the optimizer of tensors that no group names and that this one leaves,
            where this one is the optimizer of the run; None: they are refused.
        leaves: the roles that it leaves to `rest`, beside tensors of too few
            dimensions. A role that is neither trained nor left is refused.
        evaluates: whether evaluation, generation and export use other weights than
            training does: those of `Optimizer.evaluated`.
        transfer: what the rate of a matrix is multiplied by where its inputs and
            outputs widen, so that it stays the best one; None: not known.
        advice: what a plan says where no learning rate was chosen, because the usual
            one is not meant for this optimizer.
    """

    name: str
    cls: type
    source: str
    words: str
    states: Mapping[str, StateTensor] = field(default_factory=dict)
    options: Mapping[str, Option] = field(default_factory=dict)
    settings: Mapping[str, str] = field(default_factory=dict)
    roles: tuple[str, ...] = DENSE_ROLES
    sharded: bool = True
    averaged: bool = True
    rest: str | None = None
    advice: str | None = None
    evaluates: bool = False
    transfer: Transfer | None = None
    dimensions: int = 0
    leaves: tuple[str, ...] = LEAVES

    def trains(self, role: str, dimensions: int) -> bool:
        """Whether it can train a tensor of a role and this many dimensions."""
        return role in self.roles and dimensions >= self.dimensions

    @property
    def bytes_per_parameter(self) -> float:
        """Memory of all states for each element of a large weight."""
        large = (2**12, 2**12)
        return self.bytes_for(large) / math.prod(large)

    def bytes_for(self, shape: Shape, pieces: int = 1) -> float:
        """Memory of all states of a weight; arguments as of `StateTensor`."""
        return sum(state.bytes_for(shape, pieces) for state in self.states.values())

    def whole_bytes_for(self, shape: Shape, pieces: int = 1) -> float:
        """The part of `bytes_for` that is not divided where a weight's rows are."""
        return sum(
            state.bytes_for(shape, pieces)
            for state in self.states.values()
            if not state.shares(0, len(shape))
        )


OPTIMIZERS = FoundByName[Declared]("lumina.optim.methods")
"""Every optimizer whose file has been imported, by name."""


def register_optimizer(
    name: str,
    *,
    words: str,
    states: Mapping[str, StateTensor] | None = None,
    options: Mapping[str, Option] | None = None,
    settings: Mapping[str, str] | None = None,
    roles: tuple[str, ...] = DENSE_ROLES,
    sharded: bool = True,
    averaged: bool = True,
    rest: str | None = None,
    advice: str | None = None,
    evaluates: bool = False,
    transfer: Transfer | None = None,
    dimensions: int = 0,
    leaves: tuple[str, ...] = LEAVES,
) -> Callable[[C], C]:
    """A decorator that makes a class the optimizer of `--optimizer NAME`.

    The arguments are the fields of `Declared`, which explains them.

    Raises:
        LuminaError: E005 for a name that is taken, or a state whose name is reserved.
    """

    def decorate(cls: C) -> C:
        declared = Declared(
            name,
            cls,
            str(Path(inspect.getfile(cls)).resolve()),
            words,
            dict(states or {}),
            dict(options or {}),
            dict(settings or {}),
            roles,
            sharded,
            averaged,
            rest,
            advice,
            evaluates,
            transfer,
            dimensions,
            leaves,
        )
        _check(declared)
        OPTIMIZERS[name] = declared
        return cls

    return decorate


def _check(declared: Declared) -> None:
    """Refuse names that are not distinct."""
    name = declared.name
    if not name.isidentifier():
        raise LuminaError(
            "E005",
            f"an optimizer cannot be called {name!r}",
            "use letters, digits and _",
        )
    taken = OPTIMIZERS.get(name)
    package = OPTIMIZERS.package
    own = name in OPTIMIZERS.own and declared.cls.__module__ != f"{package}.{name}"
    if own or (taken is not None and taken.source != declared.source):
        place = "Lumina itself" if own or taken is None else taken.source
        raise LuminaError(
            "E005", f"{place} already has an optimizer {name!r}", "choose another name"
        )
    for state in declared.states:
        if state in RESERVED or not state.isidentifier():
            raise LuminaError(
                "E005",
                f"a state of the optimizer {name} cannot be called {state!r}",
                f"use letters, digits and _, and none of {', '.join(RESERVED)}",
            )
    if both := declared.options.keys() & declared.settings.keys():
        raise LuminaError(
            "E005",
            f"the optimizer {name} declares {', '.join(sorted(both))} twice",
            "an option is its own, or a setting of every run",
        )


def known_optimizers() -> tuple[str, ...]:
    """The names that `chosen_optimizer` finds."""
    return OPTIMIZERS.known()


def is_known(name: str) -> bool:
    """Whether an optimizer of that name is there."""
    return name in OPTIMIZERS or name in OPTIMIZERS.own


def chosen_optimizer(name: str, option: str = "optimizer") -> Declared:
    """The optimizer of a name.

    Args:
        name: as a run's options give it.
        option: the option that gives it, for the error.

    Raises:
        LuminaError: E005, with those that there are.
    """
    return OPTIMIZERS.chosen(
        name,
        f"{option} {name}: there is no such optimizer",
        f"another one is a class under @lumina.register_optimizer({name!r}) in a file "
        "named with --plugins",
    )
