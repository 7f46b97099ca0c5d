"""Times of a machine that has other work now and then."""

from __future__ import annotations

import random

TIMES = 20.0
"""How many times as long something takes that is held up."""


def stalled(draw: random.Random, usual: float, often: float = 0.05) -> float:
    """A time that is a little uneven, and now and then far too long.

    Args:
        draw: gives the chances.
        usual: seconds.
        often: the share of times that are far too long.
    """
    return usual * draw.uniform(0.8, 1.2) * (TIMES if draw.random() < often else 1.0)
