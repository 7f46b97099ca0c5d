"""Weights that evaluation uses in place of those that train; a run has one kind."""

from __future__ import annotations

import math
from collections.abc import Mapping
from typing import Any

from lumina.features.feature import Exclusion, Feature
from lumina.features.table import register
from lumina.features.trial import Trial


def _memory(spec: Any, layout: Any) -> Mapping[str, int]:
    """A float32 copy of what trains."""
    return {"ema": math.ceil(4 * layout.trained_here(spec))}


def _one_kind(feature: str) -> Exclusion:
    return Exclusion(feature, "evaluation uses one kind of averaged weights")


register(
    Feature(
        name="ema",
        option="ema_decay",
        summary="evaluate a moving average of the weights",
        without="--ema-decay 0",
        change_cost="restart",
        requested=lambda c: c.train.ema_decay > 0,
        active=lambda p: p.ema_decay > 0,
        memory=_memory,
        trial=Trial(
            {"ema_decay": 0.9},
            keeps=False,
            calls=("lumina.optim.averages.moving:WeightAverage.update",),
        ),
    )
)
register(
    Feature(
        name="swa",
        option="swa_start",
        summary="evaluate the mean of the weights over the last part of the run",
        without="--swa-start 0",
        change_cost="restart",
        requested=lambda c: c.train.swa_start > 0,
        active=lambda p: p.swa_start > 0,
        excludes=(_one_kind("ema"), _one_kind("lookahead")),
        memory=_memory,
        trial=Trial(
            {"swa_start": 0.5},
            keeps=False,
            calls=("lumina.optim.averages.stochastic:StochasticAverage.update",),
        ),
    )
)
register(
    Feature(
        name="lookahead",
        option="lookahead_steps",
        summary="weights go back to slow ones that follow them, every few steps",
        without="--lookahead-steps 0",
        change_cost="restart",
        requested=lambda c: c.train.lookahead_steps > 0,
        active=lambda p: p.lookahead_steps > 0,
        excludes=(_one_kind("ema"),),
        memory=_memory,
        trial=Trial(
            {"lookahead_steps": 5},
            keeps=False,
            calls=("lumina.optim.averages.lookahead:Lookahead.update",),
        ),
    )
)
