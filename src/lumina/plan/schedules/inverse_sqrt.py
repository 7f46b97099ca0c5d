"""One over the root of the step, as in Vaswani et al., 2017, arXiv:1706.03762.

The length of the run has no part in it, so that a run that is made longer goes on as if
it had been planned so; only a warm-up given as a share of the run changes it.
"""

from __future__ import annotations

from lumina.optim.declared import Option
from lumina.plan.schedule_table import Place, falling, register_schedule


@register_schedule(
    "inverse_sqrt",
    words="falls as one over the root of the step",
    options={"timescale": Option(0, least=0)},
    floor=0.0,
)
def rate(place: Place) -> float:
    """The rate of a step: peak * sqrt(timescale / (steps after warm-up + timescale)).

    A timescale of 0 stands for the steps of warm-up, as in the paper, or for 10,000
    where there is none. The rate never falls below the floor.
    """
    if place.done < place.warmup_steps:
        return falling(place)
    timescale = place.options["timescale"] or place.warmup_steps or 10_000
    after = place.done + 1 - place.warmup_steps
    return float(
        max(place.peak * (timescale / (after + timescale)) ** 0.5, place.floor)
    )
