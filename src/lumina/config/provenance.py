"""Where a setting came from."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal

Kind = Literal[
    "preset",
    "file",
    "flag",
    "python",
    "default",
    "orchestrator",
    "decided",
]

SUGGESTED = frozenset({"default", "preset", "decided"})
"""Kinds of source that are not wishes for this run. "decided" values are worked out
for the run from its model and its data, and recorded with their reason."""


@dataclass(frozen=True)
class Source:
    """Where one value came from, and what it displaced.

    Attributes:
        kind: the layer that set the value.
        detail: the preset's name, the file's path, or why.
        previous: the layer below and its value, as text, when this one overrode it.
    """

    kind: Kind
    detail: str = ""
    previous: str | None = None

    @property
    def chosen(self) -> bool:
        """Whether the value was chosen for this run, by the user or by a rule."""
        return self.kind not in SUGGESTED

    @property
    def given(self) -> bool:
        """Whether the user gave the value: in a flag, a file or Python."""
        return self.kind in ("flag", "file", "python")

    @property
    def label(self) -> str:
        """The layer and its name, such as "file run.yaml"."""
        return f"{self.kind} {self.detail}".rstrip()

    def over(self, below: Source, value: object) -> Source:
        """This source, noting that it displaced `value` which `below` had set."""
        if below.kind == "default":
            return self
        return Source(self.kind, self.detail, f"{below.label}: {show(value)}")

    def __str__(self) -> str:
        if self.previous is None:
            return self.label
        return f"{self.label}, overrides {self.previous}"


def show(value: object) -> str:
    """A value as one would write it on the command line or in YAML."""
    if value is None:
        return "auto"
    if isinstance(value, bool):
        return "yes" if value else "no"
    if isinstance(value, float):
        return f"{value:g}"
    if isinstance(value, (tuple, list)):
        return " ".join(str(item) for item in value) or "(none)"
    return str(value)
