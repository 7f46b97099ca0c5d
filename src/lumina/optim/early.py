"""The optimizer in the backward pass: a weight changes once its gradient is there.

The gradients of all parameters are then never in memory together (Lv et al., 2023,
arXiv:2306.09782). What has to see all of them before a weight changes cannot be had:
clipping to a global norm, steps on gradients, a loss scale, accumulation. A gradient
that is not finite changes nothing of its own parameter; those that came before it in
the same backward pass have changed theirs.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import torch
from torch import Tensor

from lumina.optim.declared import Declared
from lumina.optim.gate import Verdict
from lumina.optim.optimizer import Member, Optimizer, Slot
from lumina.parallel.mesh import RankGroup


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
        self._done: set[str] = set()

    def step_early(
        self, slot: Slot, *, lr: Tensor, weight_decay: float, skip: Tensor
    ) -> None:
        """Update one parameter whose gradient is complete, and let go of the gradient.

        Args:
            slot: of the parameter.
            lr: as of `Optimizer.step`, as are the others.
            weight_decay: decoupled decay.
            skip: [] float32, 1.0 where nothing may change.
        """
        one = torch.ones_like(skip)
        self._parts[slot.name].step(
            lr=lr, weight_decay=weight_decay, divisor=one, skip=skip
        )
        slot.zero_grad()
        self._done.add(slot.name)

    def step(
        self, *, lr: Tensor, weight_decay: float, divisor: Tensor, skip: Tensor
    ) -> None:
        """Step the parameters that have not had their step in the backward pass."""
        for name, part in self._parts.items():
            if name not in self._done:
                part.step(lr=lr, weight_decay=weight_decay, divisor=divisor, skip=skip)
        self._done.clear()

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


class Early:
    """Steps in the backward pass, over all optimizers of a Program.

    Args:
        members: its optimizers. Those that are no `OneByOne` step after it.
        device: where norms are computed.
    """

    def __init__(self, members: Mapping[str, Member], device: torch.device) -> None:
        self._members: dict[str, Member] = {}
        self.hooks: list[Any] = []
        for member in members.values():
            if not isinstance(member.optimizer, OneByOne):
                continue
            for slot in member.optimizer.slots:
                self._members[slot.name] = member
                self.hooks.append(
                    slot.parameter.register_post_accumulate_grad_hook(
                        lambda _, slot=slot: self._complete(slot)
                    )
                )
        self._device = device
        self._armed: tuple[Tensor, float] | None = None
        self._squares: list[Tensor] = []

    def arm(self, *, lr: Tensor, weight_decay: float) -> None:
        """The next backward pass updates; arguments as of `Optimizers.step`."""
        self._armed = lr, weight_decay
        self._squares = []

    def _complete(self, slot: Slot) -> None:
        """The gradient of a parameter is complete."""
        if self._armed is None:
            return
        gradient = slot.gradient()
        if gradient is None:
            return
        lr, weight_decay = self._armed
        norm = torch.linalg.vector_norm(gradient, dtype=torch.float32)
        self._squares.append(norm.square())
        member = self._members[slot.name]
        optimizer = member.optimizer
        assert isinstance(optimizer, OneByOne)
        optimizer.step_early(
            slot,
            lr=member.rate_of(lr),
            weight_decay=member.decay_of(weight_decay),
            skip=(~torch.isfinite(norm)).float(),
        )

    def verdict(self, rest: list[Tensor]) -> Verdict:
        """What the gradients of the step were; the next backward updates nothing.

        Args:
            rest: gradients that are still there.
        """
        self._armed = None
        squares = [*self._squares]
        squares += [
            torch.linalg.vector_norm(one, dtype=torch.float32).square() for one in rest
        ]
        self._squares = []
        norm = torch.zeros((), device=self._device)
        if squares:
            norm = torch.stack(squares).sum().sqrt()
        skip = (~torch.isfinite(norm)).float()
        return Verdict(norm=norm, divisor=torch.ones_like(norm), skip=skip)
