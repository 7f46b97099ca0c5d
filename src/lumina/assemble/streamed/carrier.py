"""Weights on their way from their home to the device, beside the computing.

Every block that comes gets memory of its own from the allocator. Nothing is copied into
memory that may still be read, so there is no buffer to be overwritten too early: what
still holds a tensor of a block that has left holds its memory, too.
"""

from __future__ import annotations

from concurrent.futures import Future, ThreadPoolExecutor
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor

from lumina.optim.paging.home import Home, memory


@dataclass
class Arrival:
    """Bytes that are on their way.

    Attributes:
        content: [size] uint8 on the device.
        copied: a copy that a thread makes; its result is the event that the device
            waits for. None where the device was told at once.
        event: what the device waits for, where it is known already.
    """

    content: Tensor
    copied: Future[torch.cuda.Event | None] | None = None
    event: torch.cuda.Event | None = None


class Carrier:
    """Copies pages to one device, on a CUDA stream of its own or in a thread.

    Args:
        device: where the blocks compute.
        staged: whether pages need memory of the host on their way to a GPU.
    """

    def __init__(self, device: torch.device, *, staged: bool) -> None:
        self.device = device
        self.staged = staged and device.type != "cpu"
        self._stream: Any = None
        if device.type == "cuda":
            self._stream = torch.cuda.Stream(device)
        self._threads: ThreadPoolExecutor | None = None
        self._staging: Tensor | None = None

    def begin(self, home: Home) -> Arrival:
        """Begin to copy a page; its bytes may be read after `wait`.

        Args:
            home: whose content does not change before the copy is complete.
        """
        size = home.rest.numel()
        content = torch.empty(size, dtype=torch.uint8, device=self.device)
        ready = None
        if self._stream is not None:
            # The memory may have been used before by what is still queued.
            ready = torch.cuda.current_stream(self.device).record_event()
            if not self.staged:
                return Arrival(content, event=self._queued(content, home.rest, ready))
        if self._threads is None:
            self._threads = ThreadPoolExecutor(1, "weights")
        return Arrival(
            content, self._threads.submit(self._copied, home, content, ready)
        )

    def _queued(self, into: Tensor, source: Tensor, ready: Any) -> torch.cuda.Event:
        with torch.cuda.stream(self._stream):
            self._stream.wait_event(ready)
            into.copy_(source, non_blocking=True)
            event: torch.cuda.Event = self._stream.record_event()
        return event

    def _copied(self, home: Home, content: Tensor, ready: Any) -> Any:
        """In the thread: what the device waits for, or None when all is there."""
        if content.device.type == "cpu":
            source = home.read(content if home.staged else None)
            if source.data_ptr() != content.data_ptr():
                content.copy_(source)
            return None
        size = content.numel()
        if self.staged and (self._staging is None or self._staging.numel() < size):
            self._staging = memory(size, pinned=self._stream is not None)
        staging = self._staging[:size] if self._staging is not None else None
        event = self._queued(content, home.read(staging), ready)
        event.synchronize()  # before the staging memory is read into again
        return event

    def wait(self, arrival: Arrival) -> Tensor:
        """The bytes: the device, or the host, waits until they are there.

        Raises:
            LuminaError: what the place said that they come from.
        """
        if arrival.copied is not None:
            arrival.event = arrival.copied.result()
            arrival.copied = None
        if arrival.event is not None:
            torch.cuda.current_stream(self.device).wait_event(arrival.event)
            arrival.event = None
        return arrival.content

    def close(self) -> None:
        """End the thread, when what it does is done."""
        if self._threads is not None:
            self._threads.shutdown()
        self._staging = None
