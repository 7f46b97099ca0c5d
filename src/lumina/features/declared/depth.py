"""Mixture of Depths: blocks that only some tokens go through."""

from __future__ import annotations

from lumina.features.feature import Feature
from lumina.features.table import register

register(
    Feature(
        name="mixture_of_depths",
        option="use_mod",
        summary="blocks that only a share of the tokens of each row goes through",
        without="--no-use-mod",
        change_cost="restart",
        requested=lambda c: c.mod.use_mod,
        active=lambda p: p.spec.mod is not None,
    )
)
