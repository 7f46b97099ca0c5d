"""The visits of all pages to the device in one step."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from concurrent.futures import Future

import torch
from torch import Tensor

from lumina.optim.paging.page import Page
from lumina.optim.paging.sizes import WINDOW
from lumina.optim.paging.transport import Transport

Fetched = tuple["Future[torch.cuda.Event | None]", int]
"""What says that a page has arrived, and the number of its buffer."""


class Round:
    """Pages come one after the other, the next ones while one is worked on.

    Args:
        transport: what carries them.
        expected: the pages that have states, in the order in which they are likely to
            be visited. Another order costs time and nothing else.
    """

    def __init__(self, transport: Transport, expected: Sequence[Page]) -> None:
        self._transport = transport
        size = max((page.size for page in expected), default=0)
        self._buffers: list[Tensor] = []
        if size:
            self._buffers = transport.buffers(size, len(expected))
        self._free = list(range(len(self._buffers)))
        self._writes: dict[int, Future[None]] = {}
        self._fetched: dict[Page, Fetched] = {}
        self._left = list(expected)
        self.visited: list[Page] = []
        self._ahead()

    def visit(self, page: Page, work: Callable[[], None]) -> None:
        """Work on a page while its states are on the device.

        Raises:
            LuminaError: what the place said that the page lives in.
        """
        if page in self._left:
            self._fetch(page)
        fetched, place = self._fetched.pop(page)
        buffer = self._buffers[place][: page.size]
        self._transport.arrived(fetched)
        page.move(buffer)
        work()
        assert page.home is not None
        page.written = self._transport.store(page.home, buffer, place)
        self._writes[place] = page.written
        page.move(page.home.rest)
        self.visited.append(page)
        self._free.append(place)
        self._ahead()

    def _fetch(self, page: Page) -> None:
        """Begin to read a page into the buffer that was free for the longest time."""
        self._left.remove(page)
        place = self._free.pop(0)
        before = (page.written, self._writes.get(place))
        assert page.home is not None
        self._fetched[page] = (
            self._transport.fetch(
                page.home,
                self._buffers[place][: page.size],
                place,
                [one for one in before if one is not None],
            ),
            place,
        )

    def _ahead(self) -> None:
        """Read the next pages; one buffer stays for a page that is not expected."""
        while self._left and len(self._fetched) < WINDOW - 1 and self._free:
            self._fetch(self._left[0])
