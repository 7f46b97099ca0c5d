"""What the steps of most optimizers begin and end with."""

from __future__ import annotations

from collections.abc import Iterator

import torch
from torch import Tensor

from lumina.optim.optimizer import Slot


def with_gradients(
    slots: list[Slot], divisor: Tensor, skip: Tensor
) -> Iterator[tuple[Slot, Tensor]]:
    """Each slot that has a gradient, with the gradient in float32, divided.

    The gradients of a step that is skipped are 0 here, because what they hold may not
    be finite and times 0 would not be 0.

    Args:
        slots: of an optimizer.
        divisor: [] float32 that the gradients are divided by.
        skip: [] float32, 1.0 where nothing may change.
    """
    for slot in slots:
        gradient = slot.gradient()
        if gradient is not None:
            scaled = torch.where(skip > 0, 0.0, gradient.float() / divisor)
            yield slot, scaled.contiguous()


def move_(slot: Slot, update: Tensor, rate: Tensor, weight_decay: float) -> None:
    """Decay a slot's weights, take a step against an update, and round the result.

    Args:
        slot: what is moved.
        update: of the shape of the master.
        rate: [] float32, 0 where nothing may change.
        weight_decay: of slots that decay.
    """
    if slot.decay:
        slot.master.mul_(1.0 - rate * weight_decay)
    slot.master.sub_(rate * update)
    slot.write_back()


def precise(x: Tensor) -> Tensor:
    """In float64, for what cancels; in float32 on Apple GPUs, which have no more."""
    return x.float() if x.device.type == "mps" else x.double()
