"""What an optimizer is to a Program: slots, a step, and what it keeps."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any, ClassVar, Protocol

import torch
from torch import Tensor, nn

from lumina.errors import LuminaError
from lumina.model.tensors import FusedPieces
from lumina.optim.declared import Declared
from lumina.parallel.mesh import RankGroup


@dataclass
class Slot:
    """One trained parameter and what its optimizer keeps for it.

    Attributes:
        name: the parameter's name in the network.
        parameter: what the network computes with; maybe sharded, maybe half precision.
        master: local float32 weights; the parameter's own storage when it is float32.
        decay: whether weight decay applies (matrices only).
        pieces: how a fused parameter divides into matrices; None where it is one.
        state: the optimizer's tensors for this parameter, by the names it declares.
        keeps_master: the master stays between steps.
        accumulator: local float32 gradient sum, where the parameter's own gradient
            is half precision and a step has several forwards.
        touched: of a table that is read row by row, the rows that the step's forwards
            used: their numbers [B], and the leaf [B, D] that gathers their gradient.
            None for a parameter that has a gradient of its own size.
        order: of a parameter whose stored rows stand in another order than in a State,
            the number there of each row [rows]; None: they stand in theirs.
        still: gives a state, by its name, as it is now in memory that no step changes,
            or None where only a copy can do that; None where no state can be had so.
    """

    name: str
    parameter: nn.Parameter
    master: Tensor
    decay: bool
    pieces: FusedPieces | None = None
    state: dict[str, Tensor] = field(default_factory=dict)
    accumulator: Tensor | None = None
    keeps_master: ClassVar[bool] = True
    touched: list[tuple[Tensor, Tensor]] | None = None
    order: Tensor | None = None
    still: Callable[[Slot, str], Tensor | None] | None = None

    @property
    def matrix_names(self) -> tuple[str, ...]:
        """Names in files of the matrices that the parameter consists of."""
        return (self.name,) if self.pieces is None else self.pieces.names

    def gradient(self) -> Tensor | None:
        """The local gradient of the step, or None if there was none."""
        if self.accumulator is not None:
            return self.accumulator
        gradient = self.parameter.grad
        return None if gradient is None else local(gradient)

    @torch.no_grad()
    def write_back(self) -> None:
        """Round the master to the half-precision weights that are made from it."""
        if self.parameter.dtype != torch.float32:
            local(self.parameter.data).copy_(self.master)

    def settle(self) -> None:
        """Called after a kernel wrote the master and the weights made from it."""

    def release(self) -> None:
        """Release what was only made to be read."""

    def arrive(self, device: torch.device) -> None:
        """Bring what a step reads and does not live on the device."""

    def depart(self) -> None:
        """Take it back."""

    def zero_grad(self) -> None:
        """Forget the gradients of the step."""
        self.parameter.grad = None
        if self.accumulator is not None:
            self.accumulator.zero_()
        if self.touched is not None:
            self.touched.clear()


def local(tensor: Tensor) -> Tensor:
    """The part of a possibly sharded tensor that lies on this device."""
    to_local = getattr(tensor, "to_local", None)
    return tensor if to_local is None else to_local()


class Optimizer:
    """What a registered class derives from.

    Its constructor fills `state` of every slot with the states that it declared, at
    their first values; `step` is the only method that every class has to write.

    Args:
        slots: the parameters it trains.
        options: value of each option and setting that it declared.
        device: where its own numbers live.
        ranks: those among which the tokens of a step are divided; None: one alone.
    """

    def __init__(
        self,
        slots: list[Slot],
        options: Mapping[str, Any],
        *,
        device: torch.device,
        ranks: RankGroup | None = None,
    ) -> None:
        self.slots = slots
        self.options = options
        self.device = device
        self.ranks = ranks

    def gather(self) -> Tensor | None:
        """Bring together gradients that no wrapper brings together.

        Called once in a step, before `step`, by all ranks.

        Returns:
            [] float32, 1.0 where one of them is not finite, so that the step may
            change nothing; None where there are no such gradients.
        """
        return None

    def step(
        self, *, lr: Tensor, weight_decay: float, divisor: Tensor, skip: Tensor
    ) -> None:
        """Update every master, and the half-precision weights made from them.

        Nothing is read back to the host.

        Args:
            lr: [] float32 on the device.
            weight_decay: decoupled decay of the slots that decay.
            divisor: [] float32 the gradients are divided by (loss scale / clip).
            skip: [] float32, 1.0 where nothing may change.
        """
        raise NotImplementedError

    def evaluated(self, slot: Slot) -> Tensor:
        """The weights that evaluation uses, local float32, where it declares that.

        Args:
            slot: one of its own.
        """
        raise NotImplementedError

    def scalars(self) -> dict[str, Tensor]:
        """Numbers that it keeps beside the slots, [] tensors by name.

        A resumed run gets them back through `load_scalars`.
        """
        return {}

    def load_scalars(self, values: Mapping[str, float]) -> None:
        """The inverse of `scalars`."""

    def settle(self) -> None:
        """Wait until every state can be read and written where it lies."""

    def anew(self) -> Optimizer:
        """The same optimizer with its first states, in place of this one."""
        return type(self)(
            self.slots, self.options, device=self.device, ranks=self.ranks
        )

    def close(self) -> None:
        """Release what is neither a tensor nor a number."""


@dataclass
class Member:
    """One of the optimizers of a Program.

    Attributes:
        declared: its entry in the table.
        optimizer: the object.
        rate: its peak learning rate over the run's; None: the run's own.
        weight_decay: its own; None: the run's.
        decay_factor: what that weight decay is multiplied by.
        key: tells it from others of the same name, which train other tensors with other
            rates or decays.
    """

    declared: Declared
    optimizer: Optimizer
    rate: float | None = None
    weight_decay: float | None = None
    decay_factor: float = 1.0
    key: str = ""

    def rate_of(self, lr: Tensor) -> Tensor:
        """Its learning rate where the run's is `lr`."""
        return lr if self.rate is None else lr * self.rate

    def decay_of(self, weight_decay: float) -> float:
        """Its weight decay where the run's is `weight_decay`."""
        own = self.weight_decay
        return (weight_decay if own is None else own) * self.decay_factor


class Around(Protocol):
    """What happens before and after a step of all optimizers."""

    def before(self) -> Any:
        """Called when all gradients are there; what it returns `after` gets."""

    def after(self, kept: Any) -> None:
        """Called when weights and states have changed."""


class Optimizers:
    """All optimizers of a Program, which step together.

    Args:
        slots: the trained parameters in the network's order.
        members: the optimizers, each with its share of the slots.

    Attributes:
        around: takes part of the slots out of each step; None: all of them move.

    Raises:
        LuminaError: E005 for one that keeps other states than it declared.
    """

    def __init__(self, slots: list[Slot], members: Sequence[Member]) -> None:
        self.slots = slots
        self.members = {
            member.key or member.declared.name: member for member in members
        }
        self.around: Around | None = None
        for member in members:
            _check_states(member)

    @property
    def averaged(self) -> list[Slot]:
        """The slots that a moving average of the weights covers."""
        without = {
            slot.name
            for member in self.members.values()
            if not member.declared.averaged
            for slot in member.optimizer.slots
        }
        return [slot for slot in self.slots if slot.name not in without]

    def with_gradients(self) -> list[Slot]:
        """The slots that `gradients` has one of, in its order."""
        return [slot for slot in self.slots if slot.gradient() is not None]

    def gradients(self) -> list[Tensor]:
        """The local gradients of the step, which the gate judges and clips together."""
        return [g for slot in self.slots if (g := slot.gradient()) is not None]

    def gather(self) -> Tensor | None:
        """[] float32, 1.0 where gradients of an optimizer's own are not finite."""
        found = [member.optimizer.gather() for member in self.members.values()]
        broken = [flag for flag in found if flag is not None]
        return torch.stack(broken).amax() if broken else None

    def step(
        self, *, lr: Tensor, weight_decay: float, divisor: Tensor, skip: Tensor
    ) -> None:
        """Update every slot; arguments as of `Optimizer.step`, for the whole run."""
        kept = None if self.around is None else self.around.before()
        for member in self.members.values():
            member.optimizer.step(
                lr=member.rate_of(lr),
                weight_decay=member.decay_of(weight_decay),
                divisor=divisor,
                skip=skip,
            )
        if self.around is not None:
            self.around.after(kept)

    def begin_anew(self) -> None:
        """Give every optimizer its first states, moments and step counts among them."""
        for member in self.members.values():
            member.optimizer = member.optimizer.anew()

    def zero_grad(self) -> None:
        """Forget the gradients of the step."""
        for slot in self.slots:
            slot.zero_grad()

    def settle(self) -> None:
        """Wait until every state can be read and written where it lies."""
        for member in self.members.values():
            member.optimizer.settle()

    def release(self) -> None:
        """Release what slots made only to be read."""
        for slot in self.slots:
            slot.release()

    def close(self) -> None:
        """Release every tensor."""
        for member in self.members.values():
            member.optimizer.close()
        self.slots.clear()
        self.members.clear()


def _check_states(member: Member) -> None:
    declared = member.declared
    for slot in member.optimizer.slots:
        shape, fused = tuple(slot.parameter.shape), len(slot.matrix_names)
        wanted = {
            name
            for name, state in declared.states.items()
            if state.shape_of is None or state.shape_of(shape, fused) is not None
        }
        if slot.state.keys() != wanted:
            raise LuminaError(
                "E005",
                f"the optimizer {declared.name} keeps "
                f"{', '.join(slot.state) or 'nothing'} for {slot.name} and declares "
                f"{', '.join(sorted(wanted)) or 'nothing'}",
                "its constructor fills the state of every slot with what "
                "register_optimizer(states=...) names",
            )
