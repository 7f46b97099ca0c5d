"""Pages on their way between a home and the device, beside the computing.

A thread reads pages and another one writes them, each with a CUDA stream of its own, so
that a page is read and one is written while the optimizer works on a third. A buffer is
read into again only when what was written from it has arrived.
"""

from __future__ import annotations

from concurrent.futures import Future, ThreadPoolExecutor

import torch
from torch import Tensor

from lumina.optim.paging.home import Home, memory
from lumina.optim.paging.sizes import WINDOW


class Transport:
    """What carries pages to a device and back.

    Args:
        device: where the optimizer works.
        staged: whether pages need memory of the host on their way to a GPU.
    """

    def __init__(self, device: torch.device, *, staged: bool) -> None:
        self.device = device
        self.cuda = device.type == "cuda"
        self.staged = staged and device.type != "cpu"
        self._reader = ThreadPoolExecutor(1, "page-reader")
        self._writer = ThreadPoolExecutor(1, "page-writer")
        self._in = torch.cuda.Stream(device) if self.cuda else None
        self._out = torch.cuda.Stream(device) if self.cuda else None
        self._staging: list[Tensor | None] = [None] * WINDOW

    def buffers(self, size: int, many: int) -> list[Tensor]:
        """Memory of the device for pages of at most `size` bytes."""
        many = min(many, WINDOW)
        made = [
            torch.empty(size, dtype=torch.uint8, device=self.device)
            for _ in range(many)
        ]
        if self._in is not None and self._out is not None:
            # The memory may have been used before by what is still queued.
            self._in.wait_stream(torch.cuda.current_stream(self.device))
            for buffer in made:
                buffer.record_stream(self._in)
                buffer.record_stream(self._out)
        if self.staged:
            for number in range(many):
                held = self._staging[number]
                if held is None or held.numel() < size:
                    self._staging[number] = memory(size, pinned=self.cuda)
        return made

    def fetch(
        self, home: Home, buffer: Tensor, number: int, after: list[Future[None]]
    ) -> Future[torch.cuda.Event | None]:
        """Begin to read a page.

        Args:
            home: of the page.
            buffer: [size] uint8 on the device.
            number: of the buffer.
            after: writes that have to be complete before.

        Returns:
            The event that the device has to wait for before it reads the buffer.
        """

        def job() -> torch.cuda.Event | None:
            for one in after:
                one.result()
            content = home.read(self._host(buffer, number))
            if self._in is None:
                if content.data_ptr() != buffer.data_ptr():
                    buffer.copy_(content)
                return None
            with torch.cuda.stream(self._in):
                buffer.copy_(content, non_blocking=True)
                done: torch.cuda.Event = self._in.record_event()
            # The host may write into what is read here only when it has been read.
            done.synchronize()
            return done

        return self._reader.submit(job)

    def arrived(self, fetched: Future[torch.cuda.Event | None]) -> None:
        """The device may read the buffer: wait for it, here or on the device.

        Raises:
            LuminaError: what the place said.
        """
        event = fetched.result()
        if event is not None:
            torch.cuda.current_stream(self.device).wait_event(event)

    def store(self, home: Home, buffer: Tensor, number: int) -> Future[None]:
        """Begin to write a page, as what is queued so far leaves it; arguments as
        of `fetch`."""
        ready = None
        if self.cuda:
            ready = torch.cuda.current_stream(self.device).record_event()

        def job() -> None:
            target = home.target(self._host(buffer, number))
            if self._out is None:
                if target.data_ptr() != buffer.data_ptr():
                    target.copy_(buffer)
            else:
                assert ready is not None
                with torch.cuda.stream(self._out):
                    self._out.wait_event(ready)
                    target.copy_(buffer, non_blocking=True)
                    done = self._out.record_event()
                done.synchronize()
            home.write(target)

        return self._writer.submit(job)

    def _host(self, buffer: Tensor, number: int) -> Tensor | None:
        """Memory of the host for the content of a buffer, as far as it is needed."""
        if not self.staged:
            return buffer if buffer.device.type == "cpu" else None
        held = self._staging[number]
        assert held is not None
        return held[: buffer.numel()]

    def close(self) -> None:
        """End the threads, when what they do is done."""
        self._reader.shutdown()
        self._writer.shutdown()
        self._staging = [None] * WINDOW
