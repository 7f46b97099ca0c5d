"""What holding the base in few bits has changed, as the run found it when it began."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from lumina.observe.report.record import Record, data_of

KINDS = ("base_in_few_bits", "cost_of_few_bits")
"""The events that tell of it, of which the last of each holds."""

MOST = 400
"""Matrices that are listed, the furthest from their weights first."""


def few_bits(record: Record, budget: float) -> dict[str, Any]:
    """Sentences, and a row for each matrix; empty for a run without such a base.

    Args:
        record: the run.
        budget: share of the usual length of the list.
    """
    told = {e["kind"]: e for e in record.events if e.get("kind") in KINDS}
    if KINDS[0] not in told:
        return {}
    errors = data_of(told[KINDS[0]]).get("errors")
    known = errors if isinstance(errors, Mapping) else {}
    ranked = sorted(known.items(), key=lambda one: -float(one[1]))
    shown = ranked[: max(int(MOST * budget), 10)]
    return {
        "sentences": [str(told[kind].get("message")) for kind in KINDS if kind in told],
        "rows": [(name, f"{float(error):.3%}") for name, error in shown],
        "left_out": f"{len(ranked) - len(shown):,}" if len(ranked) > len(shown) else "",
    }
