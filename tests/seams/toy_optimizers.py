"""Optimizers that are not Lumina's, as a plug-in."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import torch
from torch import Tensor

import lumina
from lumina.optim.declared import Option, StateTensor
from lumina.optim.optimizer import Optimizer, Slot


@lumina.register_optimizer(
    "toy_momentum",
    words="SGD with momentum",
    states={"velocity": StateTensor()},
    options={
        "momentum": Option(0.9, least=0, below=1),
        "learning_rate": Option(0.1, least=0),
    },
)
class Momentum(Optimizer):
    """The weights follow a running sum of gradients."""

    def __init__(
        self,
        slots: list[Slot],
        options: Mapping[str, Any],
        *,
        device: torch.device,
        ranks: Any = None,
    ) -> None:
        super().__init__(slots, options, device=device, ranks=ranks)
        for slot in slots:
            slot.state["velocity"] = torch.zeros_like(slot.master)

    @torch.no_grad()
    def step(
        self, *, lr: Tensor, weight_decay: float, divisor: Tensor, skip: Tensor
    ) -> None:
        for slot in self.slots:
            gradient = slot.gradient()
            if gradient is None:
                continue
            gradient = torch.where(skip > 0, 0.0, gradient.float() / divisor)
            velocity = slot.state["velocity"]
            moved = velocity * self.options["momentum"] + gradient
            velocity.copy_(torch.where(skip > 0, velocity, moved))
            rate = lr * (1.0 - skip)
            if slot.decay:
                slot.master.mul_(1.0 - rate * weight_decay)
            slot.master.sub_(rate * velocity)
            slot.write_back()


@lumina.register_optimizer(
    "toy_whole",
    words="SGD with momentum, on whole weights",
    states={"velocity": StateTensor()},
    options={"momentum": Option(0.9, least=0, below=1)},
    sharded=False,
)
class Whole(Momentum):
    """As if its step needed all rows of a matrix at once."""


@lumina.register_optimizer(
    "toy_rows",
    words="a scale for each row",
    states={"scale": StateTensor(shared=-1, bytes_per_parameter=0.1)},
    roles=("matrix", "expert"),
)
class Rows(Optimizer):
    """Matrices by gradients over each row's largest size so far."""

    def __init__(
        self,
        slots: list[Slot],
        options: Mapping[str, Any],
        *,
        device: torch.device,
        ranks: Any = None,
    ) -> None:
        super().__init__(slots, options, device=device, ranks=ranks)
        self.steps = torch.zeros((), device=device)
        for slot in slots:
            slot.state["scale"] = torch.zeros_like(slot.master[..., 0])

    @torch.no_grad()
    def step(
        self, *, lr: Tensor, weight_decay: float, divisor: Tensor, skip: Tensor
    ) -> None:
        self.steps.add_(1.0 - skip)
        for slot in self.slots:
            gradient = slot.gradient()
            if gradient is None:
                continue
            gradient = torch.where(skip > 0, 0.0, gradient.float() / divisor)
            scale = slot.state["scale"]
            scale.copy_(torch.maximum(scale, gradient.abs().amax(-1)))
            rate = lr * (1.0 - skip) / self.steps.clamp(min=1).sqrt()
            slot.master.sub_(rate * gradient / (scale[..., None] + 1e-12))
            slot.write_back()

    def scalars(self) -> dict[str, Tensor]:
        return {"steps": self.steps}

    def load_scalars(self, values: Mapping[str, float]) -> None:
        self.steps.fill_(values["steps"])
