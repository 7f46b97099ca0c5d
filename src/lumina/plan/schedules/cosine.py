"""Half a period of a cosine from the peak to the floor.

Loshchilov and Hutter, 2017, arXiv:1608.03983, without restarts.
"""

from __future__ import annotations

import math

from lumina.plan.schedule_table import Place, falling, register_schedule


@register_schedule("cosine", words="falls along half a cosine")
def rate(place: Place) -> float:
    """The rate of a step."""
    return falling(place, cosine)


def cosine(share: float) -> float:
    """Share of the way down after a share of the decay."""
    return 0.5 * (1.0 - math.cos(math.pi * share))
