"""Batches made ahead of their use, in threads."""

from __future__ import annotations

from typing import Any

from lumina.features.feature import Choice, Feature, Machine
from lumina.features.table import register
from lumina.features.trial import Trial


def _automatic(plan: Any, machine: Machine) -> Choice:
    """On: a thread that waits for the disk takes nothing from the step."""
    return Choice(True, "one thread makes batches while the step runs")


register(
    Feature(
        name="prefetch",
        option="prefetch_threads",
        summary="make the batches of the next steps while a step runs",
        without="--prefetch-threads 0",
        change_cost="restart",
        requested=lambda c: bool(c.loading.prefetch_threads),
        refused=lambda c: c.loading.prefetch_threads == 0,
        active=lambda p: p.prefetch_threads > 0,
        automatic=_automatic,
        switch_on=lambda p: p.replace(prefetch_threads=p.prefetch_threads or 1),
        fallback=lambda p, m: p.replace(prefetch_threads=0),
        pretest="lumina.data.prefetch_pretest:problem",
        tries_first=False,
        trial=Trial({"prefetch_threads": 2}),
    )
)
