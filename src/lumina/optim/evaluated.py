"""The weights that evaluation uses, where they are not those that train."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from typing import Any, ClassVar

import torch
from torch import Tensor

from lumina.optim.optimizer import Optimizers, Slot, local


class EvaluationWeights:
    """Other weights, for evaluation and export, of some of the trained parameters.

    Attributes:
        slots: the parameters that have them.
        averages: what is kept for each, local float32, and saved as `ema`; [] where
            `values` computes them from the state of an optimizer.
        updates: [] how many steps were taken. On the device, because only the device
            knows which steps were skipped.
        default: whether generation and export take them without being asked.
    """

    default: ClassVar[bool] = False

    def __init__(self, slots: Sequence[Slot], *, device: torch.device) -> None:
        """Count from 0.

        Args:
            slots: the parameters.
            device: where the number of updates is counted.
        """
        self.slots = list(slots)
        self.averages: list[Tensor] = []
        self.updates = torch.zeros((), dtype=torch.float32, device=device)

    def values(self) -> Iterator[Tensor]:
        """The weights of each slot, local float32."""
        yield from self.averages

    def update(self, skip: Tensor) -> None:
        """See a step, unless it was skipped; called after every step.

        Args:
            skip: [] float32, 1.0 where nothing may change.
        """
        self.updates.add_(1.0 - skip)

    @contextmanager
    def applied(self) -> Iterator[None]:
        """The network computes with these weights inside this context."""
        weights = [local(slot.parameter.data) for slot in self.slots]
        kept = [weight.clone() for weight in weights]
        with torch.no_grad():
            for weight, value in zip(weights, self.values(), strict=True):
                weight.copy_(value)
        try:
            yield
        finally:
            with torch.no_grad():
                torch._foreach_copy_(weights, kept)


class Average(EvaluationWeights):
    """Weights that are kept beside the masters and follow them.

    Args:
        slots: the trained parameters that are averaged.
        device: where the number of updates is counted.
    """

    option: ClassVar[str]
    """The field of a Plan that is not 0 in a run that has this."""

    def __init__(self, slots: Sequence[Slot], *, device: torch.device) -> None:
        super().__init__(slots, device=device)
        self.averages = [slot.master.clone() for slot in slots]

    @classmethod
    def of(cls, plan: Any, slots: Sequence[Slot], device: torch.device) -> Average:
        """As the Plan says."""
        raise NotImplementedError


class ByOptimizers(EvaluationWeights):
    """What optimizers evaluate in place of their masters.

    Args:
        optimizers: all of a Program.
        device: where the number of updates is counted.
    """

    default = True

    def __init__(self, optimizers: Optimizers, *, device: torch.device) -> None:
        self._members = [
            member.optimizer
            for member in optimizers.members.values()
            if member.declared.evaluates
        ]
        super().__init__(
            [slot for member in self._members for slot in member.slots], device=device
        )

    def values(self) -> Iterator[Tensor]:
        """The weights of each slot, made one at a time."""
        for member in self._members:
            for slot in member.slots:
                yield member.evaluated(slot)
