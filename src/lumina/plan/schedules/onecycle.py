"""One cycle: up to the peak for a part of the run, then far below where it began.

Smith and Topin, 2017, arXiv:1708.07120, in the form of `torch.optim.lr_scheduler.
OneCycleLR`. The betas stay as they are: they do not move against the rate.
"""

from __future__ import annotations

from itertools import pairwise

from lumina.optim.declared import Option
from lumina.plan.schedule_table import Place, register_schedule
from lumina.plan.schedules.cosine import cosine

FINAL = 1 / 25 / 1e4
"""The last rate as a share of the peak."""


@register_schedule(
    "onecycle",
    words="rises from a fraction of the peak, and falls far below it",
    options={
        "div_factor": Option(25.0, least=1.0),
        "anneal": Option("cos", choices=("cos", "linear")),
        "three_phase": Option(False),
    },
    warmup_ratio=0.3,
    floor=FINAL,
)
def rate(place: Place) -> float:
    """The rate of a step.

    The rise takes the steps of warm-up; in three phases the rate falls back to its
    first value in as many, and from there to the floor.
    """
    first = place.peak / place.options["div_factor"]
    end, top = place.steps - 1, place.warmup_steps - 1
    corners = [(0, first), (top, place.peak), (end, place.floor)]
    if top <= 0:
        corners = [(0, place.peak), (end, place.floor)]
    elif place.options["three_phase"] and 2 * top < end:
        corners.insert(2, (2 * top, first))
    shape = cosine if place.options["anneal"] == "cos" else float
    for (begin, high), (stop, low) in pairwise(corners):
        if place.done <= stop:
            passed = (place.done - begin) / max(stop - begin, 1)
            return float(high + (low - high) * shape(passed))
    return place.floor
