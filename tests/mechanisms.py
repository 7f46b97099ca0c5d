"""The table of faults that Lumina has to survive: one declaration beside each test.

A test that causes a fault carries `@mechanism(...)`, wherever it stands. The page
docs/reliability.md has the table that `tools/faults.py` makes of the declarations, and
`tests/faults/test_table.py` counts them.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any, TypeVar

import pytest

T = TypeVar("T", bound=Callable[..., Any])

COMPONENTS = (
    "process",
    "rank",
    "launcher",
    "supervisor",
    "thread",
    "checkpoint",
    "run folder",
    "record",
    "data",
    "token store",
    "cache",
    "disk",
    "memory",
    "step",
    "clock",
    "network",
    "export",
    "experience",
)
"""What fails."""

RECOVERIES = (
    "resume",
    "begin again",
    "older checkpoint",
    "save and end",
    "end at once",
    "go on",
    "leave out",
    "refuse",
    "make again",
    "end all ranks",
    "restart",
    "roll back",
    "smaller pieces",
)
"""How Lumina gets over it; docs/reliability.md says what each promises."""

SECONDS = 300
"""A mechanism that has not recovered after so long hangs, which is a failure."""


def mechanism(
    name: str,
    *,
    component: str,
    failure: str,
    recovery: str,
    expected: str,
    real: bool = True,
    case: str | None = None,
    seconds: int = SECONDS,
) -> Callable[[T], T]:
    """Declare what a test causes and what is expected then: a decorator.

    `tools/faults.py` reads the declarations from the source, so that all arguments are
    literals. The test fails when it takes longer than `seconds`.

    Args:
        name: of the mechanism; unique, in a few words.
        component: what fails, of `COMPONENTS`.
        failure: how it fails.
        recovery: how it is got over, of `RECOVERIES`.
        expected: what the test asserts after it, in a sentence.
        real: a real process, file or device is acted upon; else a function of the
            program is replaced.
        case: the id of the parameters that cause it, where others cause something else.
        seconds: the hard limit.
    """
    assert component in COMPONENTS and recovery in RECOVERIES, (component, recovery)

    def declared(test: T) -> T:
        marked = pytest.mark.mechanism(name)(test)
        return pytest.mark.timeout(seconds)(marked)

    return declared
