"""How options write the data of several tasks."""

from __future__ import annotations

import re
from collections.abc import Iterable
from typing import Any

from lumina.errors import LuminaError

_NAME = re.compile(r"[A-Za-z][A-Za-z0-9_-]*")


def task_names(config: Any) -> tuple[str, ...]:
    """The tasks of a Config in the order of their first mention; none: it has no tasks.

    Raises:
        LuminaError: E005 for an entry that is no pair of a name and a path.
    """
    return tuple(paths_by_task(config.data.tasks, "tasks"))


def paths_by_task(entries: Iterable[str], leaf: str) -> dict[str, tuple[str, ...]]:
    """Each task's paths, tasks in the order of their first mention.

    Args:
        entries: `NAME=PATH`; a name may come several times.
        leaf: the option, for errors.

    Raises:
        LuminaError: E005 for an entry that is no such pair.
    """
    found: dict[str, tuple[str, ...]] = {}
    for entry in entries:
        name, equals, path = entry.partition("=")
        if not (equals and path.strip() and _NAME.fullmatch(name)):
            raise LuminaError(
                "E005",
                f"{leaf} cannot be {entry!r}",
                "write NAME=PATH; a name has letters, digits, - and _, and begins "
                "with a letter",
            )
        found[name] = (*found.get(name, ()), path)
    return found
