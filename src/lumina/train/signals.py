"""Signals to a training: end with a checkpoint, or write one and go on."""

from __future__ import annotations

import os
import signal
import threading
from collections.abc import Callable
from types import FrameType, TracebackType
from typing import Any

from lumina.threads import start

ENDING = (signal.SIGINT, signal.SIGTERM, signal.SIGHUP)
"""Signals that end a run with a checkpoint; its exit code is 128 and the number."""

SAVING = signal.SIGUSR1
"""The signal that asks for a checkpoint."""


def heeded() -> list[signal.Signals]:
    """The signals a training answers: not SIGHUP where nohup had it ignored."""
    ignored = signal.getsignal(signal.SIGHUP) == signal.SIG_IGN
    return [n for n in (*ENDING, SAVING) if not (ignored and n == signal.SIGHUP)]


STUCK_SECONDS = 5.0
"""How long code of a library may keep Python from answering a signal before a run."""


class StopSignals:
    """Catches the signals of a training from its preparation to its end.

    SIGUSR1 is remembered from the start. A signal that ends a run is remembered for the
    loop to see, once there is one; before, it ends the preparation at once, with
    KeyboardInterrupt for Ctrl-C and else SystemExit. A second Ctrl-C ends the process
    at once with exit code 130.

    Python answers a signal only between two of its own instructions. Where a library
    takes longer than `STUCK_SECONDS` over one call, a thread ends the process instead.

    Args:
        main: this process speaks for the run.

    Attributes:
        received: the first ending signal's number, or None.
        looping: the loop looks at `received`.
        leave_word: called before the thread ends the process, to record why.
    """

    def __init__(self, main: bool = True) -> None:
        self.received: int | None = None
        self.looping = False
        self.leave_word: Callable[[], None] | None = None
        self._main = main
        self._save_asked = False
        self._previous: dict[int, Any] = {}
        self._over = threading.Event()
        self._pipe: tuple[int, int] | None = None
        self._thread: threading.Thread | None = None
        self._woken = -1

    def __enter__(self) -> StopSignals:
        # Only the main thread may set handlers; a Trainer used from another thread
        # leaves signals to its owner.
        if threading.current_thread() is threading.main_thread():
            for number in heeded():
                self._previous[number] = signal.signal(number, self._handle)
            self._watch()
        return self

    def _watch(self) -> None:
        """Receive signals at once, on a thread that only waits for them."""
        reading, writing = self._pipe = os.pipe()
        os.set_blocking(writing, False)
        self._woken = signal.set_wakeup_fd(writing, warn_on_full_buffer=False)
        _WATCHED.add(writing)
        self._thread = threading.Thread(
            target=self._end_if_stuck, args=(reading,), name="signals", daemon=True
        )
        start(self._thread)

    def __exit__(
        self,
        kind: type[BaseException] | None,
        value: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        self._over.set()
        if self._pipe is not None:
            signal.set_wakeup_fd(self._woken)
            _WATCHED.discard(self._pipe[1])
            os.close(self._pipe[1])  # the thread reads the end, and ends
            self._pipe = None
        if self._thread is not None:
            self._thread.join()  # or it would keep the run's tensors a while longer
            self._thread = None
        self.leave_word = None
        for number, handler in self._previous.items():
            signal.signal(number, handler)

    def _handle(self, number: int, frame: FrameType | None) -> None:
        if number == SAVING:
            self._save_asked = True
            return
        if self.received is not None and number == signal.SIGINT:
            os.write(2, b"\nstopped at once; the last checkpoint stands\n")
            os._exit(130)
        if self.received is not None:
            return
        self.received = number
        if self.looping:
            return
        self._say_early(number)
        if number == signal.SIGINT:
            raise KeyboardInterrupt
        raise SystemExit(self.exit_code)

    def _end_if_stuck(self, reading: int) -> None:
        """Wait for signals before the loop; end the process if it does not answer."""
        while said := os.read(reading, 1):
            number = said[0]
            if number not in ENDING or self.looping:
                continue
            if self._over.wait(STUCK_SECONDS) or self.looping:
                continue
            if self.received is None:
                self._say_early(number)
            if self.leave_word is not None:
                self.leave_word()
            os._exit(128 + number)
        os.close(reading)

    def _say_early(self, number: int) -> None:
        if self._main:
            name = signal.Signals(number).name
            os.write(2, f"\nended by {name} before a step was trained\n".encode())

    def take_save(self) -> bool:
        """Whether a checkpoint was asked for since the last call."""
        asked, self._save_asked = self._save_asked, False
        return asked

    @property
    def exit_code(self) -> int:
        """130 after Ctrl-C, 143 after SIGTERM, 129 after SIGHUP, 0 without a signal."""
        return 0 if self.received is None else 128 + self.received


_WATCHED: set[int] = set()


def _unwatch() -> None:
    """The signals of a forked child are none of its parent's."""
    if _WATCHED:
        _WATCHED.clear()
        signal.set_wakeup_fd(-1)


os.register_at_fork(after_in_child=_unwatch)
