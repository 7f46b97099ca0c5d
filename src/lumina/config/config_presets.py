"""`ConfigPresets`: each preset as a method that makes its `Config`."""

from __future__ import annotations

from collections.abc import Callable

from lumina.config.config import Config
from lumina.config.presets import PRESETS, find_preset
from lumina.errors import LuminaError


class _Factories(type):
    """Gives `ConfigPresets` one method per preset, straight from the table."""

    def __getattr__(cls, name: str) -> Callable[[], Config]:
        if name.startswith("__"):
            raise AttributeError(name)
        try:
            preset = find_preset(name)
        except LuminaError as error:
            raise AttributeError(str(error)) from error
        return lambda: Config.resolve(preset=preset.name)

    def __dir__(cls) -> list[str]:
        return [*super().__dir__(), *(n for n in PRESETS if n.isidentifier())]


class ConfigPresets(metaclass=_Factories):
    """`ConfigPresets.debug()`, `ConfigPresets.b7()`: each preset as a `Config`.

    Names that are not Python identifiers go through `ConfigPresets.get("l2:b7")`.
    """

    @staticmethod
    def get(name: str) -> Config:
        """The preset of that name as a `Config` (E001 when there is none)."""
        return Config.resolve(preset=name)

    @staticmethod
    def names() -> list[str]:
        """Every preset's canonical name."""
        return list(PRESETS)
