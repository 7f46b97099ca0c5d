"""Where a plan's reasons and warnings gather while it is made."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field, fields
from typing import TYPE_CHECKING, Any

from lumina.model.spec import ModelSpec
from lumina.plan.plan import Plan

if TYPE_CHECKING:
    from lumina.config import Config


@dataclass
class Decisions:
    """Values decided so far, with why.

    Attributes:
        values: field of the Plan -> value.
        reasons: field of the Plan -> why.
        warnings: advice that does not stop the run.
        fallbacks: what takes the place of something that is not available.
    """

    values: dict[str, Any] = field(default_factory=dict)
    reasons: dict[str, str] = field(default_factory=dict)
    warnings: list[str] = field(default_factory=list)
    fallbacks: list[str] = field(default_factory=list)

    def decide(self, name: str, value: Any, why: str) -> None:
        """Fix one field of the Plan."""
        self.values[name] = value
        self.reasons[name] = why

    def warn(self, text: str) -> None:
        """Add advice."""
        self.warnings.append(text)

    def fall_back(self, text: str) -> None:
        """Note that something takes the place of what is not available."""
        self.fallbacks.append(text)

    def draft(self, spec: ModelSpec) -> Plan:
        """A Plan of what is decided so far; the rest has the fields' defaults."""
        return Plan(
            spec=spec,
            **self.values,
            fallbacks=tuple(self.fallbacks),
            reasons=dict(self.reasons),
            warnings=tuple(self.warnings),
        )

    def take(self, before: Plan, after: Plan) -> None:
        """Decide the fields that `after` explains or changes in the draft `before`."""
        for name in (found.name for found in fields(Plan)):
            if name in ("reasons", "warnings", "fallbacks"):
                continue
            value = getattr(after, name)
            if name in after.reasons or value != getattr(before, name):
                self.values[name] = value
        self.reasons |= after.reasons
        self.warnings = list(after.warnings)
        self.fallbacks = list(after.fallbacks)


def asked_for(config: Config, leaf: str) -> bool:
    """Whether this option was set for this run, rather than a preset."""
    if config.get(leaf) is None:
        return False
    source = _provenance(config).get(leaf)
    return source is not None and bool(source.chosen)


def source_of(config: Config, leaf: str) -> str:
    """Where the value of an option came from, in words."""
    source = _provenance(config).get(leaf)
    if source is None:
        return "the default"
    if source.kind in ("default", "decided"):
        return source.detail or "the default"
    return str(getattr(source, "label", source.kind))


def _provenance(config: Config) -> Mapping[str, Any]:
    return config.provenance
