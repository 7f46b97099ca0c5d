"""Dropout of the residual branches."""

from __future__ import annotations

from lumina.features.feature import Feature
from lumina.features.table import register
from lumina.features.trial import Trial

register(
    Feature(
        name="dropout",
        option="dropout",
        summary="zero random parts of both residual branches while training",
        without="--dropout 0",
        change_cost="restart",
        requested=lambda c: c.model.dropout > 0,
        active=lambda p: p.spec.dropout > 0,
        trial=Trial({"dropout": 0.1}, keeps=False, draws=True),
    )
)
