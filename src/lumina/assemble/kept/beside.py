"""Activations that wait for the backward pass in host memory or on disk.

A tensor is copied while the next block computes, by a thread and a CUDA stream of its
own, and it is read again while the block after it goes back. The last tensor of a
forward pass is needed first and never leaves the device.
"""

from __future__ import annotations

import weakref
from collections import deque
from concurrent.futures import Future
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from lumina.optim.paging.home import Home, aligned, chosen_home
from lumina.optim.paging.sizes import WINDOW
from lumina.optim.paging.transport import Transport

UNDER_WAY = 2
"""Copies that may be under way; further ones wait, so that memory stays bounded."""


class Away:
    """A tensor that is kept beside the device.

    Attributes:
        tensor: itself, as long as it has not left.
    """

    def __init__(self, tensor: Tensor) -> None:
        self.tensor: Tensor | None = tensor
        self.version = tensor._version
        self.shape, self.dtype = tensor.shape, tensor.dtype
        self.size = tensor.numel() * tensor.element_size()
        self.home: Home | None = None
        self.written: Future[None] | None = None
        self.buffer: Tensor | None = None
        self.fetched: Future[Any] | None = None
        self.before: weakref.ref[Away] | None = None
        self.used = False


class Beside:
    """Keeps tensors in one place beside the device, and brings each back once.

    Args:
        place: "host" or "disk".
        folder: where files are made.
    """

    def __init__(self, place: str, folder: Path) -> None:
        self.place, self.folder = place, folder
        self._transport: Transport | None = None
        self._free: dict[int, list[Home]] = {}
        self._under_way: deque[tuple[Away, Tensor, Future[None]]] = deque()
        self._latest: weakref.ref[Away] | None = None

    def put(self, tensor: Tensor) -> Away:
        """Keep a tensor; it leaves the device when the next one comes.

        Raises:
            LuminaError: E204, E106 or E104 where the folder has no room or cannot be
                written to.
        """
        tensor = tensor.detach()
        away = Away(tensor)
        latest = self._latest() if self._latest is not None else None
        if latest is not None and latest.tensor is not None:
            self._send(latest)
        away.before = self._latest
        self._latest = weakref.ref(away)
        return away

    def get(self, away: Away) -> Tensor:
        """The tensor, on the device again.

        Raises:
            RuntimeError: for a second backward pass through the same forward pass.
        """
        if away.used:
            raise RuntimeError(
                "activations that are kept beside the device can be read once: a "
                "second backward pass through the same forward pass needs "
                "--activations-in device"
            )
        away.used = True
        if away.tensor is not None:
            tensor, away.tensor = away.tensor, None
        else:
            self._fetch(away)
            tensor = self._arrived(away)
        before = away.before() if away.before is not None else None
        if before is not None and before.home is not None and not before.used:
            self._fetch(before)
        return tensor

    def _send(self, away: Away) -> None:
        """Begin to copy a tensor to its place."""
        tensor = away.tensor
        assert tensor is not None
        transport = self._of(tensor.device)
        while len(self._under_way) >= UNDER_WAY:
            self._settle()
        flat = tensor.reshape(-1).view(torch.uint8)
        size = aligned(away.size)
        if size != away.size:
            flat = torch.nn.functional.pad(flat, (0, size - away.size))
        if transport.staged:
            transport.buffers(size, WINDOW)
        away.home = self._home(size, tensor.device)
        away.written = transport.store(away.home, flat, 0)
        weakref.finalize(away, self._free.setdefault(size, []).append, away.home)
        self._under_way.append((away, tensor, away.written))
        away.tensor = None

    def _settle(self) -> None:
        """Wait for the oldest copy.

        Raises:
            RuntimeError: where the tensor was changed before it was copied.
        """
        away, tensor, written = self._under_way.popleft()
        written.result()
        if tensor._version != away.version:
            raise RuntimeError(
                "an activation was changed in place while it was copied; this is a "
                "defect of the model's code: --activations-in device does without"
            )

    def _fetch(self, away: Away) -> None:
        """Begin to bring a tensor back, unless that has begun."""
        if away.fetched is not None:
            return
        assert away.home is not None and away.written is not None
        while self._under_way:  # the forward pass is over
            self._settle()
        transport = self._transport
        assert transport is not None
        (away.buffer,) = transport.buffers(aligned(away.size), 1)
        away.fetched = transport.fetch(away.home, away.buffer, 1, [away.written])

    def _arrived(self, away: Away) -> Tensor:
        assert away.fetched is not None and away.buffer is not None
        assert self._transport is not None
        self._transport.arrived(away.fetched)
        buffer, away.buffer = away.buffer, None
        return buffer[: away.size].view(away.dtype).view(away.shape)

    def _home(self, size: int, device: torch.device) -> Home:
        free = self._free.setdefault(size, [])
        if free:
            return free.pop()
        home = chosen_home(self.place)(size, self.folder, pinned=device.type == "cuda")
        weakref.finalize(self, home.close)
        return home

    def _of(self, device: torch.device) -> Transport:
        if self._transport is None:
            staged = chosen_home(self.place).staged
            self._transport = Transport(device, staged=staged)
            weakref.finalize(self, self._transport.close)
        return self._transport
