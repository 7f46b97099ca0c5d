"""Experts that no token of a step went through keep their weights and states.

An optimizer moves a weight without a gradient too: by its momentum, and by weight
decay. With this, an expert whose gradient is zero everywhere stays as it was, and its
moments do not fade, as if the step had not been one of its own. That is the "lazy"
update of sparse Adam; which is better depends on how rare the experts are.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence

import torch
from torch import Tensor

from lumina.optim.declared import StateTensor
from lumina.optim.optimizer import Slot, local

Kept = tuple[Tensor, Tensor, Tensor]
"""A tensor [E, ...], the numbers [R] of experts that rest, and their rows of it."""


class RestingExperts:
    """Takes experts without a gradient out of a step of any optimizer.

    What is kept meanwhile is as large as the experts that rest. To know them, the host
    waits for the gradients once in each step.

    Args:
        slots: parameters whose first axis is the expert's, each with the states that
            its optimizer declares.
    """

    def __init__(self, slots: Sequence[tuple[Slot, Mapping[str, StateTensor]]]) -> None:
        self._slots = list(slots)

    @torch.no_grad()
    def before(self) -> list[Kept]:
        """Copies of what a step would change of experts that rest."""
        found = [_without_gradient(slot) for slot, _ in self._slots]
        if not found:
            return []
        resting = torch.cat(found).cpu().split([len(one) for one in found])
        kept: list[Kept] = []
        for (slot, states), rests in zip(self._slots, resting, strict=True):
            if not rests.any():
                continue
            rows = rests.nonzero().flatten().to(slot.parameter.device)
            for tensor in _changed(slot, states):
                kept.append((tensor, rows, tensor.index_select(0, rows)))
        return kept

    @staticmethod
    @torch.no_grad()
    def after(kept: list[Kept]) -> None:
        """Give them back what the step has changed."""
        for tensor, rows, values in kept:
            tensor.index_copy_(0, rows, values)


def _without_gradient(slot: Slot) -> Tensor:
    """[E] bool: of a slot's experts on this rank, those whose gradient is all zero.

    One that is not finite is not zero. Without any gradient nothing is changed, so that
    nothing has to be kept.
    """
    gradient = slot.gradient()
    if gradient is None:
        return torch.zeros(
            local(slot.parameter).shape[0],
            dtype=torch.bool,
            device=slot.parameter.device,
        )
    return (gradient == 0).flatten(1).all(dim=1)


def _changed(slot: Slot, states: Mapping[str, StateTensor]) -> list[Tensor]:
    """What a step changes of a slot, as far as experts have it for themselves."""
    weights = local(slot.parameter.data)
    found = [weights]
    if slot.keeps_master and slot.master.data_ptr() != weights.data_ptr():
        found.append(slot.master)
    dimensions = slot.parameter.ndim
    for name, value in slot.state.items():
        if states[name].shares(0, dimensions):
            found.append(value)
    return found
