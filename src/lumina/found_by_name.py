"""Tables whose own entries are files of a package, each named like its entry.

A file is imported when its entry is first looked up, and registers it then. Entries
from elsewhere register themselves as their file is imported.
"""

from __future__ import annotations

import importlib
import importlib.util
import pkgutil
from functools import cached_property
from typing import TypeVar

from lumina.errors import LuminaError
from lumina.similar_names import did_you_mean

T = TypeVar("T")


class FoundByName(dict[str, T]):
    """The entries whose files have been imported, by name.

    Args:
        package: whose files hold the table's own entries.
    """

    def __init__(self, package: str) -> None:
        super().__init__()
        self.package = package

    @cached_property
    def own(self) -> frozenset[str]:
        """Names of the package's files, which are their entries'."""
        spec = importlib.util.find_spec(self.package)
        folders = spec.submodule_search_locations if spec is not None else None
        return frozenset(module.name for module in pkgutil.iter_modules(folders or []))

    def known(self) -> tuple[str, ...]:
        """The names that `found` finds."""
        return tuple(sorted(self.own | self.keys()))

    def chosen(self, name: str, refusal: str, more: str = "") -> T:
        """The entry of a name.

        Args:
            name: as it was given.
            refusal: what is said of a name that there is not.
            more: what is said behind the names that there are.

        Raises:
            LuminaError: E005, with the nearest of the names and all of them.
        """
        entry = self.found(name)
        if entry is None:
            known = self.known()
            hint = f"{did_you_mean(name, known)}there are {', '.join(known)}"
            raise LuminaError("E005", refusal, f"{hint}; {more}" if more else hint)
        return entry

    def refuse_taken(self, name: str, module: str, what: str) -> None:
        """Refuse a name of one of the package's files to all other modules.

        Args:
            name: that an entry is to be registered under.
            module: that registers it.
            what: what the entries are, in the words of an error.

        Raises:
            LuminaError: E005.
        """
        if name in self.own and module != f"{self.package}.{name}":
            raise LuminaError(
                "E005",
                f"Lumina itself already has {what} {name!r}",
                "choose another name",
            )

    def found(self, name: str) -> T | None:
        """The entry of a name, imported where that is needed; None: there is none."""
        if name not in self and name in self.own:
            importlib.import_module(f"{self.package}.{name}")
        return self.get(name)
