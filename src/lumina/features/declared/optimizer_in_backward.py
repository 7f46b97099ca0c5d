"""Weights that change in the backward pass."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from lumina.features.feature import Exclusion, Feature
from lumina.features.table import register
from lumina.features.trial import Trial


def _memory(spec: Any, layout: Any) -> Mapping[str, int]:
    """The gradients of one block at most, or of the largest table.

    Where states come in pages, those of the pages that are not complete as well.
    """
    if layout.accumulates:
        return {}
    gradients, there = layout.gradients_here(spec), layout.gradients_at_a_time(spec)
    if any(name.startswith("optimizer_states_") for name in layout.features):
        there += layout.pages_here(spec)
    return {"gradients": min(there, gradients) - gradients}


register(
    Feature(
        name="optimizer_in_backward",
        option="optimizer_in_backward",
        summary="change a weight as soon as its gradient is there, keep no gradients",
        without="--no-optimizer-in-backward",
        requested=lambda c: c.offload.optimizer_in_backward,
        active=lambda p: p.optimizer_in_backward,
        switch_on=lambda p: p.replace(optimizer_in_backward=True),
        excludes=(
            Exclusion(
                "preserve_base_knowledge",
                "it pulls weights after the backward pass, before they are updated",
            ),
        ),
        memory=_memory,
        trial=Trial(
            {"optimizer_in_backward": True},
            beside={"max_grad_norm": 0.0},
            calls=("lumina.optim.early:Early._complete",),
        ),
    )
)
