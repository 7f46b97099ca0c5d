"""Copies of a State in CPU memory, made while the next step computes.

A fresh copy of many gigabytes waits for the system to find its pages: 1.3 GiB/s on an
H200's host. Pages that are there already and are locked take 51 GiB/s, and the device
copies into them beside its computing. So the memory is kept from one save to the next,
and a step waits only before it changes a weight.
"""

from __future__ import annotations

import threading
import weakref
from collections.abc import Iterable

import torch
from torch import Tensor

from lumina.host_memory import host_memory_bytes
from lumina.threads import start

SHARE = 0.5
"""Most of the free CPU memory that the copies may take for good."""

Wanted = tuple[str, torch.Size, torch.dtype]
"""Name, shape and type of a tensor to be copied."""


def has_room(wanted: Iterable[Wanted], processes: int) -> bool:
    """Whether the copies of tensors may stay in CPU memory for the whole run.

    Args:
        wanted: the tensors.
        processes: of the run on this machine, each with copies of about that size.
    """
    size = sum(shape.numel() * dtype.itemsize for _, shape, dtype in wanted)
    return room_for(size, processes)


def room_for(size: int, processes: int) -> bool:
    """Whether that many bytes of each process on this machine fit the same share."""
    import psutil

    free = min(int(psutil.virtual_memory().available), host_memory_bytes())
    return size * processes <= SHARE * free


class HostCopies:
    """CPU memory for what is copied from a GPU, tensor by tensor, by name.

    Between `begin` and `end`, `take` queues copies on a stream of its own. `end` is
    followed by steps, which call `before_changes` ahead of the first change of a
    tensor, and by `arrived` ahead of the first read of a copy.

    Args:
        device: the GPU.
    """

    def __init__(self, device: torch.device) -> None:
        self._stream = torch.cuda.Stream(device)
        self._done: torch.cuda.Event | None = None
        self._memory: dict[str, Tensor] = {}
        self._locked: list[Tensor] = []
        self._getting_ready: threading.Thread | None = None
        self._closed = threading.Event()
        weakref.finalize(self, _unlock, self._locked)

    def prepare(self, wanted: Iterable[Wanted]) -> None:
        """Find memory for tensors on a thread, before the first save asks for it."""
        self._getting_ready = threading.Thread(
            target=self._find_memory, args=(list(wanted),), name="host-copies"
        )
        try:
            start(self._getting_ready)
        except RuntimeError:  # the first save finds the memory
            self._getting_ready = None

    def _find_memory(self, wanted: list[Wanted]) -> None:
        for name, shape, dtype in wanted:
            if self._closed.is_set():
                return
            self._memory_for(name, shape, dtype)

    def _memory_for(self, name: str, shape: torch.Size, dtype: torch.dtype) -> Tensor:
        memory = self._memory.get(name)
        if memory is None or memory.shape != shape or memory.dtype != dtype:
            memory = torch.zeros(shape, dtype=dtype)  # which brings its pages in
            if memory.numel() and _lock(memory):
                self._locked.append(memory)
            self._memory[name] = memory
        return memory

    def begin(self) -> None:
        """Copies made from now on see everything that was computed so far."""
        if self._getting_ready is not None:
            self._getting_ready.join()
            self._getting_ready = None
        self._stream.wait_stream(torch.cuda.current_stream(self._stream.device))

    def take(self, name: str, tensor: Tensor) -> Tensor:
        """A contiguous copy of a tensor, which is complete after `arrived`.

        Args:
            name: tells it from all other tensors of the State.
            tensor: on the GPU; must not change before `before_changes`. One of the CPU
                is copied at once.
        """
        tensor = tensor.detach()
        if tensor.device.type == "cpu":
            return tensor.clone(memory_format=torch.contiguous_format)
        memory = self._memory_for(name, tensor.shape, tensor.dtype)
        with torch.cuda.stream(self._stream):
            memory.copy_(tensor, non_blocking=True)
        tensor.record_stream(self._stream)
        return memory

    def end(self) -> None:
        """All copies of a State are queued."""
        self._done = self._stream.record_event()

    def before_changes(self) -> None:
        """Let the GPU wait until its tensors are copied; the host goes on."""
        if self._done is not None:
            torch.cuda.current_stream(self._stream.device).wait_event(self._done)

    def arrived(self) -> None:
        """Return when the copies are complete."""
        if self._done is not None:
            self._done.synchronize()

    def close(self) -> None:
        """Release the memory; copies that were taken stay as they are."""
        self._closed.set()
        if self._getting_ready is not None:
            self._getting_ready.join()
        self.arrived()
        self._memory.clear()
        _unlock(self._locked)


def _lock(memory: Tensor) -> bool:
    """Keep pages in memory, so that the GPU reads and writes them by itself."""
    runtime = torch.cuda.cudart()
    return int(runtime.cudaHostRegister(memory.data_ptr(), memory.nbytes, 0)) == 0


def _unlock(locked: list[Tensor]) -> None:
    runtime = torch.cuda.cudart()
    while locked:
        runtime.cudaHostUnregister(locked.pop().data_ptr())
