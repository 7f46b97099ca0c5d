"""The earlier designs' names for metrics, beside the run directory's own."""

from __future__ import annotations

from typing import Any

from lumina.observe.metric_table import ALIASES


def with_aliases(row: dict[str, Any]) -> dict[str, Any]:
    """The row, and the same values under the documents' names (CON-91)."""
    named = {alias: row[key] for alias, key in ALIASES.items() if key in row}
    return row | named
