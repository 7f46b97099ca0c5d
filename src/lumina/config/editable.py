"""A preset's settings whose options are set as attributes until they are used."""

from __future__ import annotations

from pathlib import Path
from typing import Any

from lumina.config.config import Config
from lumina.config.leaves import canonical
from lumina.config.provenance import Source
from lumina.config.sections import SECTIONS
from lumina.config.settings import Settings
from lumina.errors import LuminaError


class EditableConfig(Config):
    """A `Config` with options as attributes: `config.learning_rate = 1e-4`.

    Each value is checked alone as it is set, and all of them together when the settings
    are used: by `save`, `replace`, `settled` or a `Trainer`. So options that belong
    together may be set one after another.

    Raises:
        AttributeError: for a name that is no option.
        LuminaError: E005 for a value that makes no sense; E002, when the settings are
            used, for values that do not go together.
    """

    __slots__ = ()

    def __getattr__(self, name: str) -> Any:
        if name.startswith("__"):
            raise AttributeError(name)
        try:
            return self.get(name)
        except LuminaError as error:
            raise AttributeError(error.message) from error

    def __setattr__(self, name: str, value: object) -> None:
        if name in SECTIONS:
            raise AttributeError(
                f"{name} is a section: set its options, such as config.learning_rate"
            )
        try:
            leaf = canonical(name)
        except LuminaError as error:
            raise AttributeError(f"{error.message}; {error.hint}") from error
        if leaf == "preset":
            raise AttributeError(
                "a preset lies below the other values: begin with another one, or use "
                "Config(preset=...) and replace(...)"
            )
        changed = self._laid_over({name: value}, Source("python"))
        Settings.__init__(self, changed.preset, changed.sections, changed.provenance)

    def settled(self) -> Config:
        """The settings as they are now, checked together, which no longer change."""
        return self.replace()

    def save(self, path: str | Path) -> None:
        """Write the settings as YAML, after all of them are checked together."""
        self.settled().save(path)

    __hash__ = None  # type: ignore[assignment]
