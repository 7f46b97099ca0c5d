"""Stand-ins for what a module imports, which nothing else sees."""

from __future__ import annotations

from types import ModuleType


def stand_in(module: ModuleType, **changed: object) -> ModuleType:
    """A copy of a module with some names changed.

    Given to the one module under test in place of its import. A change in the module
    itself would reach every thread and library of the process: a watcher's look at the
    clock would take a moment that the test had meant for its own code.
    """
    copy = ModuleType(module.__name__)
    copy.__dict__.update(vars(module))
    copy.__dict__.update(changed)
    return copy
