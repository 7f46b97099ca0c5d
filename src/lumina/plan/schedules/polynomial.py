"""A power of what is left of the run, from the peak to the floor."""

from __future__ import annotations

from lumina.optim.declared import Option
from lumina.plan.schedule_table import Place, falling, register_schedule


@register_schedule(
    "polynomial",
    words="falls by a power of what is left of the run",
    options={"power": Option(2.0, least=0.1)},
)
def rate(place: Place) -> float:
    """The rate of a step: floor + (peak - floor) * left^power."""
    power = place.options["power"]
    return falling(place, lambda share: float(1.0 - (1.0 - share) ** power))
