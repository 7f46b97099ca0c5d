"""`ConfigPresets`: each preset as a method that makes its `Config`."""

from __future__ import annotations

from collections.abc import Callable

from lumina.config.config import Config
from lumina.config.editable import EditableConfig
from lumina.config.presets import PRESETS, find_preset
from lumina.config.settings import Settings
from lumina.errors import LuminaError


def _editable(preset: str) -> EditableConfig:
    config = object.__new__(EditableConfig)
    made = Config.resolve(preset=preset)
    Settings.__init__(config, made.preset, made.sections, made.provenance)
    return config


class _Factories(type):
    """Gives `ConfigPresets` one method per preset, straight from the table."""

    def __getattr__(cls, name: str) -> Callable[[], EditableConfig]:
        if name.startswith("__"):
            raise AttributeError(name)
        try:
            preset = find_preset(name)
        except LuminaError as error:
            raise AttributeError(str(error)) from error
        return lambda: _editable(preset.name)

    def __dir__(cls) -> list[str]:
        return [*super().__dir__(), *(n for n in PRESETS if n.isidentifier())]


class ConfigPresets(metaclass=_Factories):
    """`ConfigPresets.debug()`, `ConfigPresets.b7()`: each preset as a `Config`.

    Its options can be set as attributes: `config.learning_rate = 1e-4`.

    Names that are not Python identifiers go through `ConfigPresets.get("l2:b7")`.
    """

    @staticmethod
    def get(name: str) -> EditableConfig:
        """The preset of that name as a `Config` (E001 when there is none)."""
        return _editable(name)

    @staticmethod
    def names() -> list[str]:
        """Every preset's canonical name."""
        return list(PRESETS)
