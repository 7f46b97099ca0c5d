"""Ctrl-C and SIGTERM: end at the next step with a checkpoint; twice, at once."""

from __future__ import annotations

import os
import signal
import threading
from types import FrameType, TracebackType
from typing import Any


class StopSignals:
    """Catches SIGINT and SIGTERM while the loop runs.

    The first one is remembered for the loop to see; a second Ctrl-C ends the process
    at once with exit code 130.

    Attributes:
        received: the first signal's number, or None.
    """

    def __init__(self) -> None:
        self.received: int | None = None
        self._previous: dict[int, Any] = {}

    def __enter__(self) -> StopSignals:
        # Only the main thread may set handlers; a Trainer used from another thread
        # leaves signals to its owner.
        if threading.current_thread() is threading.main_thread():
            for number in (signal.SIGINT, signal.SIGTERM):
                self._previous[number] = signal.signal(number, self._handle)
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        value: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        for number, handler in self._previous.items():
            signal.signal(number, handler)

    def _handle(self, number: int, frame: FrameType | None) -> None:
        if self.received is not None and number == signal.SIGINT:
            os.write(2, b"\nstopped at once; the last checkpoint stands\n")
            os._exit(130)
        if self.received is None:
            self.received = number

    @property
    def exit_code(self) -> int:
        """130 after Ctrl-C, 143 after SIGTERM, 0 without a signal."""
        return 0 if self.received is None else 128 + self.received
