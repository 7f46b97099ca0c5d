"""How routed models are set up by scale, where nothing else is asked for."""

from __future__ import annotations

from dataclasses import dataclass


@dataclass(frozen=True)
class Scale:
    """One line of the table.

    Attributes:
        dense_parameters: from this size of the dense model of the same shape on.
        experts: experts in a routed layer.
        capacity_factor: places over the even share, where capacity is limited.
        balance_weight: weight of the balancing loss: more experts need more.
    """

    dense_parameters: float
    experts: int
    capacity_factor: float
    balance_weight: float


SCALES = (
    Scale(0, 4, 1.1, 0.005),
    Scale(35e6, 8, 1.25, 0.008),
    Scale(2e9, 16, 1.5, 0.01),
    Scale(10e9, 32, 1.8, 0.015),
    Scale(32e9, 64, 1.8, 0.015),
    Scale(75e9, 96, 2.0, 0.025),
    Scale(150e9, 128, 2.4, 0.03),
    Scale(250e9, 144, 2.8, 0.035),
)
"""Between two sizes that the table names, the line changes halfway."""


OVERFLOW = {
    "tight": ("capacity", 1.0),
    "loose": ("dropless", 1.5),
    "adaptive": ("capacity", 1.25),
    "reroute": ("capacity", 1.25),
}
"""Strategies for tokens past an expert's places: dispatch and (first) factor."""


def default_experts(dense_parameters: int) -> int:
    """Experts of a routed layer, by the parameters of the model without experts."""
    return [s for s in SCALES if s.dense_parameters <= dense_parameters][-1].experts


def usual_values(experts: int) -> Scale:
    """The line for this many experts: the last one that does not have more."""
    return [s for s in SCALES if s.experts <= max(experts, SCALES[0].experts)][-1]
