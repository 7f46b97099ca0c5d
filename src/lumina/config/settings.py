"""Settings: the values of every option and where each came from, and nothing more."""

from __future__ import annotations

import functools
import json
from pathlib import Path
from typing import Any

import yaml

from lumina.config.files import write_yaml
from lumina.config.leaves import canonical, field
from lumina.config.migrations import KEY, VERSION
from lumina.config.provenance import Source
from lumina.config.sections import LEAVES, SECTIONS, Sections
from lumina.config.sections.section import Section


class Settings(Sections):
    """Values and their sources. Immutable; nothing here resolves or checks them.

    Attributes:
        preset: the preset's name, or None.
        provenance: leaf -> where its value came from.
    """

    __slots__ = (*SECTIONS, "preset", "provenance")

    preset: str | None
    provenance: dict[str, Source]

    def __init__(
        self,
        preset: str | None,
        sections: dict[str, Section],
        provenance: dict[str, Source],
    ) -> None:
        for name, section in sections.items():
            object.__setattr__(self, name, section)
        object.__setattr__(self, "preset", preset)
        object.__setattr__(self, "provenance", dict(provenance))

    @property
    def sections(self) -> dict[str, Section]:
        """Section name -> its values."""
        return {name: getattr(self, name) for name in SECTIONS}

    @property
    def processes(self) -> int:
        """How many processes are to train, on all machines together."""
        return self.system.processes * self.nodes.num_nodes

    def get(self, leaf: str) -> Any:
        """The value of an option under any of its spellings."""
        leaf = canonical(leaf)
        if leaf == "preset":
            return self.preset
        return getattr(getattr(self, LEAVES[leaf]), leaf)

    def is_chosen(self, leaf: str) -> bool:
        """Whether the value was chosen for this run: not a default or a preset's."""
        return self.provenance[leaf].chosen

    def is_default(self, leaf: str) -> bool:
        """Whether the value is the default, wherever it came from."""
        return bool(self.get(leaf) == field(leaf).default)

    def to_dict(self) -> dict[str, Any]:
        """Every option, flat, as plain JSON values; `Config(**d)` is its inverse."""
        flat: dict[str, Any] = {"preset": self.preset}
        for leaf in LEAVES:
            value = self.get(leaf)
            flat[leaf] = list(value) if isinstance(value, tuple) else value
        return flat

    def to_yaml(self) -> str:
        """Every option by section, its source as a comment.

        `asked` names the options that were chosen for the run; when the file is read
        again, the others still count as the preset's and the defaults', unless they
        were edited. `decided` names those that were worked out for the run, and why.
        """
        asked = tuple(leaf for leaf in self.provenance if self.is_chosen(leaf))
        lines = [
            f"{KEY}: {VERSION}",
            f"preset: {_scalar(self.preset)}",
            f"asked: {_scalar(asked)}",
        ]
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
        """Write the effective configuration as YAML, readable by `Config.load`."""
        write_yaml(path, self.to_yaml())

    def __setattr__(self, name: str, value: object) -> None:
        raise AttributeError(f"a Config does not change: use replace({name}=...)")

    def __delattr__(self, name: str) -> None:
        raise AttributeError("a Config does not change")

    def __eq__(self, other: object) -> bool:
        if not isinstance(other, Settings):
            return NotImplemented
        return self.to_dict() == other.to_dict()

    def __hash__(self) -> int:
        return hash(repr(self.to_dict()))

    def __reduce__(self) -> tuple[Any, tuple[Any, ...]]:
        return Settings, (self.preset, self.sections, self.provenance)

    def __repr__(self) -> str:
        given = [
            f"{leaf}={self.get(leaf)!r}"
            for leaf in self.provenance
            if self.is_chosen(leaf)
        ]
        return f"Config({', '.join([f'preset={self.preset!r}', *given])})"


def _scalar(value: object) -> str:
    """One value on one line of YAML."""
    if isinstance(value, tuple):
        value = list(value)
    if value is None or isinstance(value, bool | int) or value == []:
        return json.dumps(value)  # as YAML writes it, in a hundredth of the time
    written = json.dumps(value, ensure_ascii=False, default=str)
    return _known(written) if isinstance(value, float | str) else _yaml(value, written)


@functools.lru_cache(4096)
def _known(written: str) -> str:
    """The line of a number or a text, which stands for several options or runs."""
    return _yaml(json.loads(written), written)


def _yaml(value: object, written: str) -> str:
    # Three characters end a line in YAML alone: they are written as escapes.
    ends = any(character in written for character in "\x85\u2028\u2029")
    text = yaml.safe_dump(
        value, default_flow_style=True, allow_unicode=not ends, width=float("inf")
    )
    return text.removesuffix("\n").removesuffix("\n...").rstrip()


def _one_line(text: str) -> str:
    """Text fit for a YAML comment."""
    return "".join(c if c.isprintable() else "?" for c in " ".join(text.split()))
