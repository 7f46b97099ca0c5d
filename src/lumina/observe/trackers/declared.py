"""The table of trackers: Lumina's own are the files of `services`, named like them."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import TypeVar

from lumina.errors import LuminaError
from lumina.found_by_name import FoundByName
from lumina.packages import installed

T = TypeVar("T", bound=type)


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
        if self.module is not None and not installed(self.module):
            raise LuminaError(
                "E003",
                f"--trackers {self.name} needs the package {self.package}, which is "
                "missing",
                f"pip install {self.package}, or leave out --trackers {self.name}",
            )


TRACKERS = FoundByName[Declared]("lumina.observe.trackers.services")
"""Every tracker whose file has been imported, by name."""


def register_tracker(
    name: str, *, package: str | None = None, module: str | None = None
) -> Callable[[T], T]:
    """A decorator that makes a class the tracker of `--trackers NAME`.

    Args:
        name: what the option calls it.
        package: the package that it needs, as pip calls it; None: none.
        module: what is imported of the package; where it is missing, a run that asks
            for the tracker is refused before it begins.

    Raises:
        LuminaError: E005 for a name that is taken.
    """

    def decorate(cls: T) -> T:
        taken = TRACKERS.get(name)
        TRACKERS.refuse_taken(name, cls.__module__, "a tracker")
        if taken is not None and taken.cls.__module__ != cls.__module__:
            raise LuminaError(
                "E005", f"there is a tracker {name!r} already", "choose another name"
            )
        TRACKERS[name] = Declared(name, cls, package, module or package)
        return cls

    return decorate


def known_trackers() -> tuple[str, ...]:
    """The names that `chosen_tracker` finds."""
    return TRACKERS.known()


def chosen_tracker(name: str) -> Declared:
    """The tracker of a name.

    Raises:
        LuminaError: E005, with those that there are.
    """
    return TRACKERS.chosen(
        name,
        f"--trackers {name}: there is no such tracker",
        f"another one is a class under @lumina.register_tracker({name!r}) in a file "
        "named with --plugins",
    )
