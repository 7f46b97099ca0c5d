"""A moving average of the weights."""

from __future__ import annotations

import math

from lumina.features.feature import Feature
from lumina.features.table import register

register(
    Feature(
        name="ema",
        option="ema_decay",
        summary="evaluate a moving average of the weights",
        without="--ema-decay 0",
        change_cost="restart",
        requested=lambda c: c.train.ema_decay > 0,
        active=lambda p: p.ema_decay > 0,
        memory=lambda spec, layout: {"ema": math.ceil(4 * layout.trained_here(spec))},
    )
)
