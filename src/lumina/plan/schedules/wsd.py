"""Warm-up, a stable phase at the peak, and a decay over the last steps.

Hu et al., 2024 (MiniCPM), arXiv:2404.06395. The decay by a root is that of Haegele et
al., 2024, arXiv:2405.18392.
"""

from __future__ import annotations

import math
from collections.abc import Callable

from lumina.optim.declared import Option
from lumina.plan.schedule_table import Place, falling, register_schedule
from lumina.plan.schedules.cosine import cosine

DECAYS: dict[str, Callable[[float], float]] = {
    "linear": lambda share: share,
    "cosine": cosine,
    "root": math.sqrt,
}
"""Share of the way down after a share of the decay, by the name of its shape."""


@register_schedule(
    "wsd",
    words="stays at the peak, and falls over the last steps",
    options={"decay": Option("linear", choices=tuple(DECAYS))},
    stable=True,
)
def rate(place: Place) -> float:
    """The rate of a step."""
    return falling(place, DECAYS[place.options["decay"]], last=place.decay_steps)
