"""Weights that a run starts from, and those of them that do not train."""

from __future__ import annotations

from lumina.features.feature import Feature
from lumina.features.table import register
from lumina.features.trial import FROM_BASE, Trial

register(
    Feature(
        name="freeze",
        option="freeze",
        summary="parameters that match a pattern do not train",
        without="no --freeze",
        change_cost="restart",
        requested=lambda c: bool(c.train.freeze),
        active=lambda p: bool(p.freeze),
        trial=Trial({"freeze": ("*embedding*",)}, keeps=False),
    )
)
register(
    Feature(
        name="init_from",
        option="init_from",
        summary="start from the weights of a run, checkpoint or exported folder",
        without="no --init-from",
        change_cost="restart",
        requested=lambda c: c.train.init_from is not None,
        active=lambda p: False,  # a Plan does not hold where weights came from
        trial=Trial(FROM_BASE, keeps=False, planned=False),
    )
)
