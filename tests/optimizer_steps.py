"""Slots of every shape, and steps of an optimizer on them, for tests of optimizers."""

from __future__ import annotations

from collections.abc import Iterable
from typing import Any

import torch
from torch import Tensor, nn

from lumina.model.tensors import FusedPieces
from lumina.optim.declared import chosen_optimizer
from lumina.optim.optimizer import Optimizer, Slot

FUSED = FusedPieces(dim=0, names=("q", "k", "v"), sizes=(6, 4, 4))
STACKED = FusedPieces(dim=1, names=("gate", "up"), sizes=(5, 5))
SHAPES: dict[str, tuple[tuple[int, ...], FusedPieces | None]] = {
    "matrix": ((6, 4), None),
    "tall": ((9, 3), None),
    "norm": ((5,), None),
    "qkv": ((14, 8), FUSED),
    "experts": ((2, 3, 4), None),
    "gate_up": ((3, 10, 8), STACKED),
}
MATRICES = tuple(name for name in SHAPES if name != "norm")


def slots_of(
    names: Iterable[str] = SHAPES, dtype: torch.dtype = torch.float32, seed: int = 0
) -> list[Slot]:
    """New slots with random weights; half-precision ones have masters apart."""
    generator = torch.Generator().manual_seed(seed)
    slots = []
    for name in names:
        shape, pieces = SHAPES[name]
        master = torch.randn(shape, generator=generator)
        parameter = nn.Parameter(master.to(dtype))
        exact = dtype == torch.float32
        slots.append(
            Slot(
                name=name,
                parameter=parameter,
                master=parameter.detach() if exact else master,
                decay=len(shape) >= 2,
                pieces=pieces,
            )
        )
    return slots


def optimizer(name: str, slots: list[Slot], **options: Any) -> Any:
    """An optimizer with its default options, but for those given."""
    declared = chosen_optimizer(name)
    settings = {"beta1": 0.9, "beta2": 0.95, "eps": 1e-8}
    values = {option: one.default for option, one in declared.options.items()}
    values |= {option: settings[leaf] for option, leaf in declared.settings.items()}
    return declared.cls(slots, values | options, device=torch.device("cpu"))


def gradients(slots: list[Slot], step: int) -> list[Tensor]:
    """Fresh random ones of a step, different in size from tensor to tensor."""
    generator = torch.Generator().manual_seed(100 + step)
    return [
        (10.0 ** (n % 3 - 1)) * torch.randn(slot.parameter.shape, generator=generator)
        for n, slot in enumerate(slots)
    ]


def take(
    made: Optimizer,
    grads: list[Tensor],
    lr: float = 1e-2,
    decay: float = 0.0,
    divisor: float = 1.0,
    skip: float = 0.0,
) -> None:
    """One step; the gradients are rounded to the type of the weights."""
    for slot, grad in zip(made.slots, grads, strict=True):
        slot.parameter.grad = (grad * divisor).to(slot.parameter.dtype)
    made.step(
        lr=torch.tensor(lr),
        weight_decay=decay,
        divisor=torch.tensor(divisor),
        skip=torch.tensor(skip),
    )
    for slot in made.slots:
        slot.zero_grad()


def logical(slot: Slot, tensor: Tensor) -> list[Tensor]:
    """The matrices that a tensor of the slot's shape consists of, one by one."""
    pieces = [tensor]
    if slot.pieces is not None:
        pieces = list(tensor.split(list(slot.pieces.sizes), dim=slot.pieces.dim))
    return [m for piece in pieces for m in (piece if piece.ndim == 3 else [piece])]


def everything(slot: Slot) -> list[Tensor]:
    """Copies of all that a step may change."""
    return [
        tensor.detach().clone()
        for tensor in (slot.parameter, slot.master, *slot.state.values())
    ]
