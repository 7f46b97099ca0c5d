"""A straight line from the peak to the floor."""

from __future__ import annotations

from lumina.plan.schedule_table import Place, falling, register_schedule


@register_schedule("linear", words="falls along a straight line")
def rate(place: Place) -> float:
    """The rate of a step."""
    return falling(place)
