"""Parts of an optimizer that can be updated one by one, in any order."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import Any, Protocol, runtime_checkable

import torch
from torch import Tensor

from lumina.optim.declared import Declared
from lumina.optim.optimizer import Optimizer, Slot
from lumina.parallel.mesh import RankGroup


class Unit:
    """Some slots that are updated together.

    Args:
        slots: them.
        step: updates them; takes the arguments of `Optimizer.step`.
    """

    def __init__(self, slots: list[Slot], step: Callable[..., None]) -> None:
        self.slots = slots
        self._step = step
        self._stepped = False

    def step(self, **scalars: Any) -> None:
        """Update the slots ahead of the step's end, and release their gradients."""
        self._step(**scalars)
        self._stepped = True
        for slot in self.slots:
            slot.zero_grad()

    def finish(self, **scalars: Any) -> None:
        """Update the slots, unless they were updated since the last call."""
        if not self._stepped:
            self._step(**scalars)
        self._stepped = False


@runtime_checkable
class InUnits(Protocol):
    """An optimizer that consists of units."""

    def units(self) -> list[Unit]:
        """All of them."""


class OneByOne(Optimizer):
    """An optimizer that updates each parameter by itself.

    Every parameter has an optimizer of its own, of the same class and options: what it
    keeps beside the parameter, such as a count of steps, is equal in all of them.

    Args:
        declared: the optimizer of all of them.
        slots: the parameters it trains.
        options: as of `Optimizer`.
        device: where the step is computed.
        ranks: as of `Optimizer`.
    """

    def __init__(
        self,
        declared: Declared,
        slots: list[Slot],
        options: Mapping[str, Any],
        *,
        device: torch.device,
        ranks: RankGroup | None,
    ) -> None:
        super().__init__(slots, options, device=device, ranks=ranks)
        self.declared = declared
        self._parts: dict[str, Optimizer] = {
            slot.name: declared.cls([slot], options, device=device, ranks=ranks)
            for slot in slots
        }
        self._units = [Unit([slot], self._parts[slot.name].step) for slot in slots]

    def units(self) -> list[Unit]:
        """The parameters."""
        return self._units

    def step(
        self, *, lr: Tensor, weight_decay: float, divisor: Tensor, skip: Tensor
    ) -> None:
        """Update the parameters that have not had their step in the backward pass."""
        for unit in self._units:
            unit.finish(lr=lr, weight_decay=weight_decay, divisor=divisor, skip=skip)

    def evaluated(self, slot: Slot) -> Tensor:
        """As the parameter's own optimizer computes it."""
        return self._parts[slot.name].evaluated(slot)

    def scalars(self) -> dict[str, Tensor]:
        """Those of the first parameter, which are those of every one."""
        return next(iter(self._parts.values())).scalars()

    def load_scalars(self, values: Mapping[str, float]) -> None:
        """The inverse of `scalars`, for every parameter."""
        for part in self._parts.values():
            part.load_scalars(values)

    def anew(self) -> Optimizer:
        """The same optimizer with its first states."""
        return OneByOne(
            self.declared,
            self.slots,
            self.options,
            device=self.device,
            ranks=self.ranks,
        )
