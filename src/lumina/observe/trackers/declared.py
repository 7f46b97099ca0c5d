"""The table of trackers: Lumina's own are the files of `services`, named like them."""

from __future__ import annotations

import importlib
import importlib.util
import pkgutil
from collections.abc import Callable
from dataclasses import dataclass
from functools import cache
from pathlib import Path
from typing import TypeVar

from lumina.config.leaves import nearest
from lumina.errors import LuminaError

T = TypeVar("T", bound=type)

_SERVICES = "lumina.observe.trackers.services"


@dataclass(frozen=True)
class Declared:
    """A registered tracker.

    Attributes:
        name: what `--trackers` calls it.
        cls: the class, a `Tracker`.
        package: the package that it needs, as pip calls it; None: none.
        module: what is imported of the package.
    """

    name: str
    cls: type
    package: str | None = None
    module: str | None = None

    def require(self) -> None:
        """Refuse a tracker whose package is missing.

        Raises:
            LuminaError: E003, with the command that installs it.
        """
        if self.module is not None and importlib.util.find_spec(self.module) is None:
            raise LuminaError(
                "E003",
                f"--trackers {self.name} needs the package {self.package}, which is "
                "missing",
                f"pip install {self.package}, or leave out --trackers {self.name}",
            )


TRACKERS: dict[str, Declared] = {}
"""Every tracker whose file has been imported, by name."""


def register_tracker(
    name: str, *, package: str | None = None, module: str | None = None
) -> Callable[[T], T]:
    """A decorator that enters a class into `TRACKERS`; arguments as of `Declared`.

    Raises:
        LuminaError: E005 for a name that is taken.
    """

    def decorate(cls: T) -> T:
        taken = TRACKERS.get(name)
        own = name in _own() and cls.__module__ != f"{_SERVICES}.{name}"
        if own or (taken is not None and taken.cls.__module__ != cls.__module__):
            raise LuminaError(
                "E005", f"there is a tracker {name!r} already", "choose another name"
            )
        TRACKERS[name] = Declared(name, cls, package, module or package)
        return cls

    return decorate


@cache
def _own() -> frozenset[str]:
    folder = Path(__file__).parent / "services"
    return frozenset(module.name for module in pkgutil.iter_modules([str(folder)]))


def known_trackers() -> tuple[str, ...]:
    """The names that `chosen_tracker` finds."""
    return tuple(sorted(_own() | TRACKERS.keys()))


def chosen_tracker(name: str) -> Declared:
    """The tracker of a name.

    Raises:
        LuminaError: E005, with those that there are.
    """
    if name not in TRACKERS and name in _own():
        importlib.import_module(f"{_SERVICES}.{name}")
    if name in TRACKERS:
        return TRACKERS[name]
    close = nearest(name, known_trackers())
    meant = f"did you mean {close!r}? " if close else ""
    raise LuminaError(
        "E005",
        f"--trackers {name}: there is no such tracker",
        f"{meant}there are {', '.join(known_trackers())}; another one is a class under "
        f"@lumina.register_tracker({name!r}) in a file named with --plugins",
    )
