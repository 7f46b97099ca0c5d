"""When Python looks for cycles of objects that nothing needs any more.

It does so whenever enough objects were made, and goes through all that are alive. While
thousands of modules are loaded nothing of theirs becomes garbage, so that each search
is in vain; torch and its compiler make a million objects, and a fifth of the time that
their loading takes goes into such searches.
"""

from __future__ import annotations

import gc
from collections.abc import Iterator
from contextlib import contextmanager


@contextmanager
def no_search() -> Iterator[None]:
    """Nothing is searched inside; afterwards searches go on, if there were any."""
    searched = gc.isenabled()
    gc.disable()
    try:
        yield
    finally:
        if searched:
            gc.enable()


@contextmanager
def modules_stay() -> Iterator[None]:
    """What is loaded inside stays for good, and no later search goes through it.

    For the beginning of a process alone: garbage that is there by then is never found.
    """
    with no_search():
        yield
        gc.freeze()
