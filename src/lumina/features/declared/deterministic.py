"""Algorithms that repeat bit for bit."""

from __future__ import annotations

from lumina.features.feature import Feature
from lumina.features.table import register
from lumina.features.trial import Trial

register(
    Feature(
        name="deterministic",
        option="deterministic",
        summary="only algorithms that repeat bit for bit",
        without="--no-deterministic",
        change_cost="restart",
        requested=lambda c: c.system.deterministic,
        active=lambda p: p.deterministic,
        trial=Trial({"deterministic": True}, figures=("deterministic_algorithms",)),
    )
)
