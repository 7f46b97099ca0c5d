"""Adapters beside a frozen base."""

from __future__ import annotations

from lumina.features.feature import Feature
from lumina.features.table import register

register(
    Feature(
        name="adapters",
        option="use_peft",
        summary="small tensors train beside the frozen matrices of a base",
        without="no --use-peft",
        change_cost="restart",
        requested=lambda c: c.adapters.use_peft,
        active=lambda p: bool(p.spec.adapters),
    )
)
