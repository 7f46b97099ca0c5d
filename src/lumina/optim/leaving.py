"""Gradients on their way from the device to memory of the host.

A gradient is copied while the backward pass goes on. Where several backward passes add
up, the host adds what arrives to the sum that is there.
"""

from __future__ import annotations

from collections import deque
from concurrent.futures import Future, ThreadPoolExecutor
from typing import Any

import torch
from torch import Tensor

from lumina.optim.paging.home import memory

UNDER_WAY = 8
"""Gradients that may be under way; further ones wait, so that memory stays bounded."""


class Leaving:
    """Carries gradients to the host, one after the other, in a thread.

    Args:
        device: where they are made.
    """

    def __init__(self, device: torch.device) -> None:
        self.device = device
        self._stream: Any = None
        if device.type == "cuda":
            self._stream = torch.cuda.Stream(device)
        self._thread = ThreadPoolExecutor(1, "gradients")
        self._under_way: deque[Future[None]] = deque()
        self._staging: Tensor | None = None

    def send(self, gradient: Tensor, into: Tensor, *, add: bool) -> Future[None]:
        """Begin to copy a gradient.

        Args:
            gradient: on the device; nothing changes it afterwards.
            into: of the same shape on the host; nothing reads it before the result.
            add: to what is there, not in its place.
        """
        while len(self._under_way) >= UNDER_WAY:
            self._under_way.popleft().result()
        ready = None
        if self._stream is not None:
            ready = torch.cuda.current_stream(self.device).record_event()
        sent = self._thread.submit(self._carry, gradient, into, add, ready)
        self._under_way.append(sent)
        return sent

    def _carry(self, gradient: Tensor, into: Tensor, add: bool, ready: Any) -> None:
        if self._stream is None:
            arrived = gradient
        else:
            arrived = self._place(gradient) if add else into
            with torch.cuda.stream(self._stream):
                self._stream.wait_event(ready)
                arrived.copy_(gradient, non_blocking=True)
                done = self._stream.record_event()
            done.synchronize()
        if add:
            into.add_(arrived)
        elif arrived is not into:
            into.copy_(arrived)

    def _place(self, like: Tensor) -> Tensor:
        """Pinned memory for one gradient; the thread has one at a time."""
        size = like.numel() * like.itemsize
        if self._staging is None or self._staging.numel() < size:
            self._staging = memory(size, pinned=True)
        return self._staging[:size].view(like.dtype).view(like.shape)

    def close(self) -> None:
        """End the thread, when what it does is done."""
        self._thread.shutdown()
        self._under_way.clear()
        self._staging = None
