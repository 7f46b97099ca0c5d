"""Config: the settings of a run, resolved from its sources and checked."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any

from lumina.config.bundles import opened
from lumina.config.files import read_layer
from lumina.config.layer import Layer
from lumina.config.leaves import canonical, convert
from lumina.config.presets import find_preset
from lumina.config.provenance import Source
from lumina.config.sections import LEAVES, SECTIONS
from lumina.config.settings import Settings
from lumina.config.spellings import DICTIONARIES
from lumina.config.validation import advise, check_combinations
from lumina.errors import LuminaError

_DEFAULT = Source("default")


class Config(Settings):
    """The settings of a run. Immutable: `replace` makes another.

    `Config(learning_rate=1e-4, train_data=["corpus/"])` starts from the defaults,
    `Config(preset="debug", ...)` from a preset. Option names are those of the command
    line, with hyphens or underscores, and their synonyms.

    Raises:
        LuminaError: E001 preset, E002 values that do not go together, E004 unknown
            option, E005 nonsense value.
    """

    __slots__ = ()

    def __init__(self, *, preset: str | None = None, **leaves: object) -> None:
        settings = _layered(_from_preset(preset), _flat(leaves), Source("python"))
        self._fill(settings)

    def _fill(self, settings: Settings) -> None:
        """Take over values that are complete, and check them."""
        placed = _placed(opened(settings))
        Settings.__init__(self, placed.preset, placed.sections, placed.provenance)
        check_combinations(self)

    @classmethod
    def resolve(
        cls,
        preset: str | None = None,
        file: str | Path | None = None,
        flags: Mapping[str, object] | None = None,
    ) -> Config:
        """Lay flags over a file over a preset over the defaults.

        Args:
            preset: a preset's name; the flags' or the file's `preset` otherwise.
            file: a YAML file.
            flags: option -> value, as on the command line.
        """
        layer = read_layer(file) if file is not None else Layer()
        asked = _asked_in(layer.leaves)
        decided = _decided_in(layer.leaves)
        flag_leaves = _layer(flags or {}).settle(layer)
        file_leaves = layer.settle()
        in_file, in_flags = (
            file_leaves.pop("preset", None),
            flag_leaves.pop("preset", None),
        )
        name = next((n for n in (in_flags, preset, in_file) if n is not None), None)
        settings = _from_preset(None if name is None else str(name))
        settings = _layered(settings, file_leaves, Source("file", str(file)), asked)
        settings = _with_reasons(settings, decided)
        settings = _layered(settings, flag_leaves, Source("flag"))
        return _make(settings)

    @classmethod
    def load(cls, path: str | Path) -> Config:
        """Read a YAML file: sectioned or flat, with or without a `preset` key."""
        return cls.resolve(file=path)

    def replace(self, **leaves: object) -> Config:
        """A new Config with some options changed; these count as set in Python."""
        return self.override(_flat(leaves), Source("python"))

    def override(self, leaves: Mapping[str, object], source: Source) -> Config:
        """A new Config with some options changed by `source`.

        A `preset` among them is refused: a preset lies below every other value.
        """
        return _make(_layered(self, leaves, source))

    def settled(self) -> Config:
        """These settings, which do not change."""
        return self

    def _laid_over(self, leaves: Mapping[str, object], source: Source) -> Settings:
        """The values with some changed, each of which is checked alone."""
        return _layered(self, _flat(leaves), source)

    def warnings(self) -> list[str]:
        """Advice on values outside the guidelines; nothing here stops a run."""
        return advise(self)

    def __reduce__(self) -> tuple[Any, tuple[Any, ...]]:
        return _make, (Settings(self.preset, self.sections, self.provenance),)


def _make(settings: Settings) -> Config:
    config = object.__new__(Config)
    config._fill(settings)
    return config


def _placed(settings: Settings) -> Settings:
    """With the directory that `experiment_name` stands for, where none was given."""
    run = settings.run
    given = run.run_dir is not None and settings.provenance["run_dir"].kind != "default"
    if run.experiment_name is None or given:
        return settings
    folder = {"run_dir": f"runs/{run.experiment_name}"}
    source = Source("default", "named by experiment_name")
    return Settings(
        settings.preset,
        settings.sections | {"run": run.model_copy(update=folder)},
        settings.provenance | {"run_dir": source},
    )


def _flat(leaves: Mapping[str, object]) -> dict[str, object]:
    """Options one by one, also those inside a dictionary of options.

    Raises:
        LuminaError: E002 for an option given twice, E005 for one that holds no options.
    """
    return _layer(leaves).settle()


def _layer(leaves: Mapping[str, object]) -> Layer:
    layer = Layer()
    for name, value in leaves.items():
        if name not in DICTIONARIES:
            inner: Mapping[str, object] = {name: value}
        elif isinstance(value, Mapping):
            inner = value
        else:
            raise LuminaError(
                "E005", f"{name} cannot be {value!r}", "it is a dictionary of options"
            )
        for key, given in inner.items():
            layer.put(key, given)
    return layer


def _from_preset(name: str | None) -> Settings:
    settings = Settings(
        None,
        {key: section() for key, section in SECTIONS.items()},
        dict.fromkeys(LEAVES, _DEFAULT),
    )
    if name is None:
        return settings
    preset = find_preset(name)
    settings = _layered(settings, preset.values, Source("preset", preset.name))
    return Settings(preset.name, settings.sections, settings.provenance)


def _asked_in(leaves: dict[str, object]) -> frozenset[str] | None:
    """Take a saved file's list of the options chosen for the run; None: all were."""
    listed = leaves.pop("asked", None)
    if listed is None:
        return None
    if not isinstance(listed, list):
        raise LuminaError(
            "E005", f"asked cannot be {listed!r}", "it lists names of options"
        )
    return frozenset(canonical(str(name)) for name in listed)


def _decided_in(leaves: dict[str, object]) -> dict[str, str]:
    """Take a saved file's options that were worked out for the run: name -> why."""
    listed = leaves.pop("decided", None) or {}
    if not isinstance(listed, dict):
        raise LuminaError(
            "E005",
            f"decided cannot be {listed!r}",
            "it gives a reason for each of some options",
        )
    return {canonical(str(name)): str(why) for name, why in listed.items()}


def _with_reasons(settings: Settings, decided: Mapping[str, str]) -> Settings:
    """`settings` with the sources of values that were worked out for the run."""
    sources = {leaf: Source("decided", why) for leaf, why in decided.items()}
    return Settings(settings.preset, settings.sections, settings.provenance | sources)


def _layered(
    below: Settings,
    leaves: Mapping[str, object],
    source: Source,
    asked: frozenset[str] | None = None,
) -> Settings:
    """`below` with `leaves` laid over it; each is converted and checked alone.

    Args:
        asked: leaves outside it that repeat what lies below keep its source.
    """
    changes: dict[str, dict[str, object]] = {}
    provenance = dict(below.provenance)
    for name, given in leaves.items():
        leaf = canonical(name)
        if leaf == "preset":
            raise LuminaError(
                "E002",
                "a preset cannot be laid over a finished configuration",
                "start from it: Config.resolve(preset=..., flags=...)",
            )
        value = convert(leaf, given)
        old = below.get(leaf)
        if asked is not None and leaf not in asked and value == old:
            continue
        changes.setdefault(LEAVES[leaf], {})[leaf] = value
        provenance[leaf] = source.over(below.provenance[leaf], old)
    sections = dict(below.sections)
    for name, update in changes.items():
        sections[name] = sections[name].model_copy(update=update)
    return Settings(below.preset, sections, provenance)
