"""The peak rate, after warm-up, to the end."""

from __future__ import annotations

from lumina.plan.schedule_table import Place, falling, register_schedule


@register_schedule("constant", words="stays at the peak", falls=False)
def rate(place: Place) -> float:
    """The rate of a step."""
    return falling(place, lambda share: 0.0)
