"""Config: what the user asked for, every value with its source."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any

import yaml

from lumina.config.files import read_layer, write_yaml
from lumina.config.layer import Layer
from lumina.config.leaves import canonical, convert
from lumina.config.model_sections import (
    HrmSection,
    ModelSection,
    ModSection,
    MoeSection,
    MorSection,
    PartsSection,
    Section,
)
from lumina.config.presets import find_preset
from lumina.config.provenance import SUGGESTED, Source
from lumina.config.sections import (
    DICTIONARIES,
    LEAVES,
    SECTIONS,
    DataSection,
    RunSection,
    SystemSection,
    TrainSection,
)
from lumina.config.validation import advise, check_combinations
from lumina.errors import LuminaError

_DEFAULT = Source("default")


class Config:
    """The settings of a run. Immutable: `replace` makes another.

    `Config(learning_rate=1e-4, train_data=["corpus/"])` starts from the defaults,
    `Config(preset="debug", ...)` from a preset. Option names are those of the command
    line, with hyphens or underscores, and their synonyms.

    Attributes:
        preset: the preset's name, or None.
        provenance: leaf -> where its value came from.

    Raises:
        LuminaError: E001 preset, E002 values that do not go together, E004 unknown
            option, E005 nonsense value.
    """

    __slots__ = (
        "data", "hrm", "mod", "model", "moe", "mor", "parts", "preset", "provenance",
        "run", "system", "train",
    )  # fmt: skip

    model: ModelSection
    moe: MoeSection
    hrm: HrmSection
    mod: ModSection
    mor: MorSection
    parts: PartsSection
    data: DataSection
    train: TrainSection
    run: RunSection
    system: SystemSection
    preset: str | None
    provenance: dict[str, Source]

    def __init__(self, *, preset: str | None = None, **leaves: object) -> None:
        start = _from_preset(preset)
        state = _layered(start, _flat(leaves), Source("python"))
        _fill(self, _placed(state))
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
        state = _from_preset(None if name is None else str(name))
        state = _layered(state, file_leaves, Source("file", str(file)), asked)
        state = _named(state, decided)
        state = _layered(state, flag_leaves, Source("flag"))
        return _make(state)

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
        return _make(_layered(_State.of(self), leaves, source))

    def get(self, leaf: str) -> Any:
        """The value of an option under any of its spellings."""
        leaf = canonical(leaf)
        if leaf == "preset":
            return self.preset
        return getattr(getattr(self, LEAVES[leaf]), leaf)

    def to_dict(self) -> dict[str, Any]:
        """Every option, flat, as plain JSON values; `Config(**d)` is its inverse."""
        flat: dict[str, Any] = {"preset": self.preset}
        for leaf in LEAVES:
            value = self.get(leaf)
            flat[leaf] = list(value) if isinstance(value, tuple) else value
        return flat

    def to_yaml(self) -> str:
        """Every option by section, its source as a comment.

        `asked` names those that somebody set; when the file is read again, the others
        still count as the preset's and the defaults', unless they were edited.
        `decided` names those that were worked out for the run, and why.
        """
        asked = tuple(
            leaf
            for leaf, source in self.provenance.items()
            if source.kind not in SUGGESTED
        )
        lines = [f"preset: {_scalar(self.preset)}", f"asked: {_scalar(asked)}"]
        decided = {
            leaf: source.detail
            for leaf, source in self.provenance.items()
            if source.kind == "decided"
        }
        if decided:
            lines.append(f"decided: {_scalar(decided)}")
        for name, section in SECTIONS.items():
            lines.append(f"{name}:")
            for leaf in section.model_fields:
                value = f"  {leaf}: {_scalar(self.get(leaf))}"
                lines.append(f"{value}  # {_one_line(str(self.provenance[leaf]))}")
        return "\n".join(lines) + "\n"

    def save(self, path: str | Path) -> None:
        """Write the effective configuration as YAML, readable by `load`."""
        write_yaml(path, self.to_yaml())

    def warnings(self) -> list[str]:
        """Advice on values outside the guidelines; nothing here stops a run."""
        return advise(self)

    def __setattr__(self, name: str, value: object) -> None:
        raise AttributeError(f"a Config does not change: use replace({name}=...)")

    def __delattr__(self, name: str) -> None:
        raise AttributeError("a Config does not change")

    def __eq__(self, other: object) -> bool:
        if not isinstance(other, Config):
            return NotImplemented
        return self.to_dict() == other.to_dict()

    def __hash__(self) -> int:
        return hash(repr(self.to_dict()))

    def __reduce__(self) -> tuple[Any, tuple[Any, ...]]:
        return _make, (_State.of(self),)

    def __repr__(self) -> str:
        given = [
            f"{leaf}={self.get(leaf)!r}"
            for leaf, source in self.provenance.items()
            if source.kind not in SUGGESTED
        ]
        return f"Config({', '.join([f'preset={self.preset!r}', *given])})"


class _State:
    """The parts of a Config while it is being put together."""

    def __init__(
        self,
        preset: str | None,
        sections: dict[str, Section],
        provenance: dict[str, Source],
    ) -> None:
        self.preset = preset
        self.sections = sections
        self.provenance = provenance

    @staticmethod
    def of(config: Config) -> _State:
        sections = {name: getattr(config, name) for name in SECTIONS}
        return _State(config.preset, sections, config.provenance)


def _fill(config: Config, state: _State) -> None:
    for name, section in state.sections.items():
        object.__setattr__(config, name, section)
    object.__setattr__(config, "preset", state.preset)
    object.__setattr__(config, "provenance", dict(state.provenance))


def _make(state: _State) -> Config:
    config = object.__new__(Config)
    _fill(config, _placed(state))
    check_combinations(config)
    return config


def _placed(state: _State) -> _State:
    """With the directory that `experiment_name` stands for, where none was given."""
    run = state.sections["run"]
    assert isinstance(run, RunSection)
    given = run.run_dir is not None and state.provenance["run_dir"].kind != "default"
    if run.experiment_name is None or given:
        return state
    folder = {"run_dir": f"runs/{run.experiment_name}"}
    source = Source("default", "named by experiment_name")
    return _State(
        state.preset,
        state.sections | {"run": run.model_copy(update=folder)},
        state.provenance | {"run_dir": source},
    )


def _flat(leaves: Mapping[str, object]) -> dict[str, object]:
    """With the documents' dictionaries of options opened.

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


def _from_preset(name: str | None) -> _State:
    state = _State(
        None,
        {key: section() for key, section in SECTIONS.items()},
        dict.fromkeys(LEAVES, _DEFAULT),
    )
    if name is None:
        return state
    preset = find_preset(name)
    state = _layered(state, preset.values, Source("preset", preset.name))
    state.preset = preset.name
    return state


def _asked_in(leaves: dict[str, object]) -> frozenset[str] | None:
    """Take a saved file's list of the options that somebody set; None: all were."""
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


def _named(state: _State, decided: Mapping[str, str]) -> _State:
    """`state` with the sources of values that were worked out for the run."""
    sources = {leaf: Source("decided", why) for leaf, why in decided.items()}
    return _State(state.preset, state.sections, state.provenance | sources)


def _layered(
    below: _State,
    leaves: Mapping[str, object],
    source: Source,
    asked: frozenset[str] | None = None,
) -> _State:
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
        section = LEAVES[leaf]
        value = convert(leaf, given)
        old = getattr(below.sections[section], leaf)
        if asked is not None and leaf not in asked and value == old:
            continue
        changes.setdefault(section, {})[leaf] = value
        provenance[leaf] = source.over(below.provenance[leaf], old)
    sections = dict(below.sections)
    for name, update in changes.items():
        sections[name] = sections[name].model_copy(update=update)
    return _State(below.preset, sections, provenance)


def _scalar(value: object) -> str:
    """One value on one line of YAML."""
    if isinstance(value, tuple):
        value = list(value)
    text = yaml.safe_dump(
        value, default_flow_style=True, allow_unicode=True, width=float("inf")
    )
    return text.removesuffix("\n").removesuffix("\n...").rstrip()


def _one_line(text: str) -> str:
    """Text fit for a YAML comment."""
    return "".join(c if c.isprintable() else "?" for c in " ".join(text.split()))
