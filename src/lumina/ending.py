"""The error that ends some work stays the one that is told.

What goes wrong while things are closed after it is often only its consequence: a
checkpoint that is given up because the run has failed says so with an error of its own.
Raised in a `finally`, that error would take the place of the cause, with another code
and another exit code. Here it becomes a note on the cause (`BaseException.add_note`).
"""

from __future__ import annotations

import contextlib
from collections.abc import Callable, Iterator

from lumina.errors import LuminaError

Step = Callable[[], object]
"""Something that is closed or given back."""


@contextlib.contextmanager
def noted_on(error: BaseException) -> Iterator[None]:
    """What fails in here becomes a note on an error that is under way.

    Only an `Exception` does: a signal that asks the process to end goes on.

    Args:
        error: it is raised, or handled, by the caller.
    """
    try:
        yield
    except Exception as again:
        if again is error:
            return
        first = str(again).partition("\n")[0] or "no message"
        known = isinstance(again, LuminaError)
        said = first if known else f"{type(again).__name__}: {first}"
        for note in (said, *getattr(again, "__notes__", ())):
            error.add_note(note)


def take_all(*steps: Step) -> None:
    """Take every step, whatever becomes of those before it.

    Raises:
        BaseException: the first that a step raised; further ones are notes on it.
            One that is no `Exception`, such as KeyboardInterrupt, comes before all.
    """
    first: BaseException | None = None
    for step in steps:
        try:
            if first is None:
                step()
            else:
                with noted_on(first):
                    step()
        except Exception as error:
            first = error
        except BaseException as asked:
            first = asked
    if first is not None:
        try:
            raise first
        finally:
            first = None  # or it would hold this frame, and all frames before it


@contextlib.contextmanager
def at_end(end: Callable[[BaseException | None], object]) -> Iterator[None]:
    """Call `end` after a block, whatever happened there.

    Unlike a `finally`, an error of the block stays the one that is raised. What `end`
    raises then is a note on it. Without an error of the block it is raised as it is.

    Args:
        end: called with the error of the block, or None.
    """
    try:
        yield
    except BaseException as error:
        with noted_on(error):
            end(error)
        raise
    end(None)


def closed_after(*steps: Step) -> contextlib.AbstractContextManager[None]:
    """Around a block: `take_all(*steps)` at its end, as `at_end` does it."""
    return at_end(lambda _: take_all(*steps))
