"""A page: the states of a few slots, and maybe masters, in one piece of memory."""

from __future__ import annotations

import math
from collections.abc import Iterator
from concurrent.futures import Future
from pathlib import Path

import torch
from torch import Tensor

from lumina.optim.optimizer import Optimizer, Slot
from lumina.optim.paging.home import Home, aligned
from lumina.optim.paging.sizes import BETWEEN

MASTER = ""
"""The name of a slot's master among what a page holds of it."""


class Page:
    """Some slots, their optimizer, and where their states live.

    While the page is at home, the states of its slots are tensors of the CPU that can
    be read and written.

    Args:
        optimizer: of these slots alone, which has just made their states.
        home: the class of the place where they live.
        folder: as of `Home`.
        pinned: as of `Home`.
        masters: masters that are no weights of the network live in the page, too.

    Attributes:
        size: bytes of the page; 0 where the slots have no states.
        written: the write of the page that was begun last.
    """

    def __init__(
        self,
        optimizer: Optimizer,
        home: type[Home],
        folder: Path,
        *,
        pinned: bool,
        masters: bool = False,
    ) -> None:
        self.optimizer = optimizer
        self.slots = optimizer.slots
        self._places: list[tuple[Slot, str, torch.dtype, torch.Size, int]] = []
        end = 0
        for slot in self.slots:
            held = dict(slot.state)
            if masters and slot.keeps_master and slot.parameter.dtype != torch.float32:
                held[MASTER] = slot.master
            for name, value in held.items():
                self._places.append((slot, name, value.dtype, value.shape, end))
                end += -(-value.nbytes // BETWEEN) * BETWEEN
        self.size = aligned(end)
        self.written: Future[None] | None = None
        self.home: Home | None = None
        if not self.size:
            return
        self.home = home(self.size, folder, pinned=pinned)
        for (slot, name, *_), place in zip(
            self._places, self._views(self.home.rest), strict=True
        ):
            place.copy_(slot.master if name == MASTER else slot.state[name])
        self.move(self.home.rest)
        for slot in self.slots:
            slot.still = self._still_state

    def _views(self, content: Tensor) -> Iterator[Tensor]:
        """Each state as a part of the page's bytes."""
        for _, _, dtype, shape, begin in self._places:
            size = math.prod(shape) * dtype.itemsize
            yield content[begin : begin + size].view(dtype).view(shape)

    def move(self, content: Tensor) -> None:
        """Let what it holds be parts of other memory with the same content."""
        for (slot, name, *_), state in zip(
            self._places, self._views(content), strict=True
        ):
            if name == MASTER:
                slot.master = state
            else:
                slot.state[name] = state

    def come_home(self) -> None:
        """Wait until the page is written; its states are then those of its home.

        Raises:
            LuminaError: what the place said.
        """
        if self.home is None or self.written is None:
            return
        self.written.result()
        self.written = None
        self.move(self.home.rest)

    def _still_state(self, slot: Slot, name: str) -> Tensor | None:
        """A state as it is now, which nothing changes; None: only as a copy."""
        assert self.home is not None
        content = self.home.still()
        if content is None:
            return None
        for place, view in zip(self._places, self._views(content), strict=True):
            if place[0] is slot and place[1] == name:
                return view
        return None

    def close(self) -> None:
        """Release the page's memory and files."""
        if self.home is not None:
            for slot in self.slots:
                slot.state, slot.still = {}, None
            self.home.close()
            self.home = None


def paged(slots: list[Slot], bytes_of: list[float], most: float) -> list[list[Slot]]:
    """Slots divided into pages, in their order.

    Args:
        slots: of an optimizer.
        bytes_of: of the states of each; equal on all ranks.
        most: bytes of a page that has more than one slot.
    """
    pages: list[list[Slot]] = []
    size = math.inf
    for slot, more in zip(slots, bytes_of, strict=True):
        if size + more > most:
            pages.append([])
            size = 0.0
        pages[-1].append(slot)
        size += more
    return pages
