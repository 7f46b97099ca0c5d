"""What registered parts report of themselves, among a row's other figures."""

from __future__ import annotations

from collections.abc import Mapping
from typing import TYPE_CHECKING, Any

from lumina import quantities as q

if TYPE_CHECKING:
    from lumina.plan.plan import Plan


def part_keys(row: Mapping[str, Any], parts: Mapping[str, Any] | None) -> list[str]:
    """Keys of a row that a registered part reports: those that begin with its name.

    Args:
        parts: `spec.parts` of a plan, as JSON; None for a model without any.
    """
    if not parts:
        return []
    named = {parts["backbone"], parts["objective"]}
    named.update(*(parts[kind] for kind in ("block", "attention", "feedforward")))
    return [key for key in row if key.partition(".")[0] in named - {""} and "." in key]


def part_cells(row: Mapping[str, Any], plan: Plan | None) -> list[tuple[str, str]]:
    """The same as (name, text)."""
    parts = plan.spec.parts if plan is not None else None
    keys = part_keys(row, vars(parts) if parts is not None else None)
    return [(key, q.decimal(row[key], 3)) for key in keys]
