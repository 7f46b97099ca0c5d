"""Signals to a training: end with a checkpoint, or write one and go on."""

from __future__ import annotations

import os
import signal
import threading
from types import FrameType, TracebackType
from typing import Any

ENDING = (signal.SIGINT, signal.SIGTERM, signal.SIGHUP)
"""Signals that end a run with a checkpoint; its exit code is 128 and the number."""

SAVING = signal.SIGUSR1
"""The signal that asks for a checkpoint."""


def heeded() -> list[signal.Signals]:
    """The signals a training answers: not SIGHUP where nohup had it ignored."""
    ignored = signal.getsignal(signal.SIGHUP) == signal.SIG_IGN
    return [n for n in (*ENDING, SAVING) if not (ignored and n == signal.SIGHUP)]


class StopSignals:
    """Catches the signals of a training from its preparation to its end.

    From the start, SIGUSR1 is remembered rather than fatal. From `hold` on, the first
    signal that ends a run is remembered for the loop to see; a second Ctrl-C ends the
    process at once with exit code 130. Between the two nothing needs to be saved, and
    signals that end a run end the process.

    Attributes:
        received: the first ending signal's number, or None.
        looping: the loop looks at `received`; before it, a signal raises SystemExit.
    """

    def __init__(self) -> None:
        self.received: int | None = None
        self.looping = False
        self._save_asked = False
        self._previous: dict[int, Any] = {}

    def __enter__(self) -> StopSignals:
        self._catch(SAVING)
        return self

    def hold(self) -> None:
        """Catch the ending signals too: the run's directory says that it runs."""
        for number in heeded():
            self._catch(number)

    def _catch(self, number: int) -> None:
        # Only the main thread may set handlers; a Trainer used from another thread
        # leaves signals to its owner.
        main = threading.current_thread() is threading.main_thread()
        if main and number not in self._previous:
            self._previous[number] = signal.signal(number, self._handle)

    def __exit__(
        self,
        kind: type[BaseException] | None,
        value: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        for number, handler in self._previous.items():
            signal.signal(number, handler)

    def _handle(self, number: int, frame: FrameType | None) -> None:
        if number == SAVING:
            self._save_asked = True
            return
        if self.received is not None and number == signal.SIGINT:
            os.write(2, b"\nstopped at once; the last checkpoint stands\n")
            os._exit(130)
        if self.received is None:
            self.received = number
            if not self.looping:
                raise SystemExit(self.exit_code)

    def take_save(self) -> bool:
        """Whether a checkpoint was asked for since the last call."""
        asked, self._save_asked = self._save_asked, False
        return asked

    @property
    def exit_code(self) -> int:
        """130 after Ctrl-C, 143 after SIGTERM, 129 after SIGHUP, 0 without a signal."""
        return 0 if self.received is None else 128 + self.received
