"""An exponential rise from `min_lr` to the peak: the sweep of `lumina lr-range`."""

from __future__ import annotations

from lumina.plan.schedule_table import Place, register_schedule


@register_schedule(
    "lr_range",
    words="rises exponentially from min_lr to the peak, to look for a rate",
    warmup_ratio=0.0,
    floor=1e-6,
)
def rate(place: Place) -> float:
    """The rate of a step: floor * (peak / floor)^(share of the steps)."""
    share = min(place.done / max(place.steps - 1, 1), 1.0)
    return float(place.floor * (place.peak / place.floor) ** share)
