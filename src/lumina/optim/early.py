"""The optimizer in the backward pass: a weight changes once its gradient is there.

The gradients of all parameters are then never in memory together (Lv et al., 2023,
arXiv:2306.09782). What has to see all of them before a weight changes cannot be had:
clipping to a global norm, steps on gradients, a loss scale, accumulation. A gradient
that is not finite changes nothing of its own parameter or page of states; those that
came before it in the same backward pass have changed theirs.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Mapping
from typing import Any

import torch
from torch import Tensor

from lumina.optim.gate import Verdict
from lumina.optim.optimizer import Member
from lumina.optim.units import InUnits, Unit


class Early:
    """Steps in the backward pass, over all optimizers of a Program.

    Args:
        members: its optimizers. Those that do not consist of units step after it.
        device: where norms are computed.
    """

    def __init__(self, members: Mapping[str, Member], device: torch.device) -> None:
        self._members = [
            member
            for member in members.values()
            if isinstance(member.optimizer, InUnits)
        ]
        self._unit_of: dict[str, tuple[Unit, Member]] = {}
        self.hooks: list[Any] = [
            slot.parameter.register_post_accumulate_grad_hook(
                lambda _, name=slot.name: self._complete(name)
            )
            for member in self._members
            for slot in member.optimizer.slots
        ]
        self._device = device
        self._armed: tuple[Tensor, float] | None = None
        self._squares: list[Tensor] = []
        self._there: Counter[Unit] = Counter()

    def arm(self, *, lr: Tensor, weight_decay: float) -> None:
        """The next backward pass updates; arguments as of `Optimizers.step`."""
        self._armed = lr, weight_decay
        self._squares = []
        self._there.clear()
        # Optimizers that start over are other objects.
        self._unit_of = {
            slot.name: (unit, member)
            for member in self._members
            if isinstance(member.optimizer, InUnits)
            for unit in member.optimizer.units()
            for slot in unit.slots
        }

    def _complete(self, name: str) -> None:
        """The gradient of a parameter is complete."""
        if self._armed is None:
            return
        unit, member = self._unit_of[name]
        self._there[unit] += 1
        if self._there[unit] < len(unit.slots):
            return
        lr, weight_decay = self._armed
        found = [g for slot in unit.slots if (g := slot.gradient()) is not None]
        squares = [_square(one) for one in found]
        self._squares += squares
        finite = torch.isfinite(torch.stack(squares)).all()
        unit.step(
            lr=member.rate_of(lr),
            weight_decay=member.decay_of(weight_decay),
            divisor=torch.ones_like(squares[0]),
            skip=(~finite).float(),
        )

    def verdict(self, rest: list[Tensor]) -> Verdict:
        """What the gradients of the step were; the next backward updates nothing.

        Args:
            rest: gradients that are still there.
        """
        self._armed = None
        squares = [*self._squares, *(_square(one) for one in rest)]
        self._squares = []
        norm = torch.zeros((), device=self._device)
        if squares:
            norm = torch.stack(squares).sum().sqrt()
        skip = (~torch.isfinite(norm)).float()
        return Verdict(norm=norm, divisor=torch.ones_like(norm), skip=skip)


def _square(gradient: Tensor) -> Tensor:
    """[] float32, the square of a gradient's norm."""
    norm: Tensor = torch.linalg.vector_norm(gradient, dtype=torch.float32)
    return norm.square()
