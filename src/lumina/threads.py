"""Threads that start, or are known not to, and work that ends in time."""

from __future__ import annotations

import threading
from collections.abc import Callable
from typing import TypeVar

START_SECONDS = 20.0
"""A thread that has not begun by then will not: it takes microseconds."""

_T = TypeVar("_T")


class _Begun(threading.Event):
    """Waits for the first instructions of a thread, but not forever."""

    def wait(self, timeout: float | None = None) -> bool:
        if super().wait(START_SECONDS if timeout is None else timeout):
            return True
        raise RuntimeError(
            f"a new thread did not begin within {START_SECONDS:g} seconds; the system "
            "has no memory for it"
        )


def start(thread: threading.Thread) -> None:
    """Start a thread.

    `Thread.start` waits without end for a thread that lacked the memory for its own
    first lines: Python reports the `MemoryError` of the new thread, and the one that
    started it hangs.

    Raises:
        RuntimeError: the system has no room for another thread.
    """
    thread._started = _Begun()  # type: ignore[attr-defined]
    try:
        thread.start()
    except RuntimeError:
        with threading._active_limbo_lock:  # type: ignore[attr-defined]
            threading._limbo.pop(thread, None)  # type: ignore[attr-defined]
        raise


def within(seconds: float, work: Callable[[], _T]) -> _T:
    """What some work returns, if it ends in time; else its thread is left behind.

    Raises:
        TimeoutError: it did not end in time.
        BaseException: what `work` raised.
    """
    found: list[_T] = []
    failed: list[BaseException] = []

    def run() -> None:
        try:
            found.append(work())
        except BaseException as error:
            failed.append(error)

    thread = threading.Thread(target=run, daemon=True, name="lumina-within")
    start(thread)
    thread.join(seconds)
    if failed:
        raise failed[0]
    if not found:
        raise TimeoutError(f"no answer within {seconds:g} seconds")
    return found[0]
