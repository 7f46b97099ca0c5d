"""Weights that stay near those that training began with."""

from __future__ import annotations

import math

from lumina.features.feature import Feature
from lumina.features.table import register

register(
    Feature(
        name="preserve_base_knowledge",
        option="preserve_base_knowledge",
        summary="pull the weights towards those that training began with",
        without="--no-preserve-base-knowledge",
        change_cost="restart",
        requested=lambda c: c.stages.preserve_base_knowledge,
        active=lambda p: p.preservation > 0,
        memory=lambda spec, layout: {
            "base_weights": math.ceil(4 * layout.trained_here(spec))
        },
    )
)
