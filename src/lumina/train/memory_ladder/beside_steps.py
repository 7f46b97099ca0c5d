"""What a run does beside its steps, where there is no room for it."""

from __future__ import annotations

from collections.abc import Callable
from typing import TypeVar

from lumina.assemble.emptying import empty_cache
from lumina.memory_shortage import shortage_code, shortage_text
from lumina.train.recorder import Recorder

T = TypeVar("T")


def unless_short(
    make: Callable[[], T], instead: T, what: str, recorder: Recorder, step: int
) -> T:
    """Something that a run can do without: left out where there is no room for it.

    Args:
        make: makes it, on this rank alone or on all of them at the same place.
        instead: what counts where it is left out.
        what: it is, for the event.
        recorder: of the run.
        step: completed steps.
    """
    try:
        return make()
    except Exception as error:
        code = shortage_code(error)
        if code is None:
            raise
        said = shortage_text(error)
    empty_cache()
    recorder.event(
        "left_out_for_memory",
        "warning",
        code,
        f"{what} left out after step {step}: {said}",
        step=step,
    )
    return instead


def once_more(make: Callable[[], T], anew: Callable[[], T], alone: bool) -> T:
    """Something that a run needs: tried again with an empty cache.

    Args:
        make: makes it.
        anew: makes it with less memory.
        alone: no other rank waits for this one in it; else a failure is final.
    """
    try:
        return make()
    except Exception as error:
        if shortage_code(error) is None or not alone:
            raise
    empty_cache()
    return anew()
