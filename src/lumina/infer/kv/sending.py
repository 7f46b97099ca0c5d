"""Small things that the host tells the device, without waiting for it."""

from __future__ import annotations

from torch import Tensor


def send(into: Tensor, values: Tensor) -> None:
    """Copy values of the host over a tensor of the same shape.

    To a GPU they go through pinned memory, in the order of the stream: what was given
    to the device before still reads what was there. The host goes on at once.
    """
    if into.device.type == "cuda":
        into.copy_(values.to(into.dtype).pin_memory(), non_blocking=True)
    else:
        into.copy_(values)
