"""Which actions help against which anomaly, from the mildest to the strongest."""

from __future__ import annotations

from collections.abc import Mapping

LADDERS: Mapping[str, tuple[str, ...]] = {
    "loss_spike": ("nothing", "tighter_clip", "reset_moments", "lower_rate"),
    "severe_loss_spike": ("tighter_clip", "reset_moments", "lower_rate"),
    "exploding_gradients": ("tighter_clip", "reset_moments", "lower_rate"),
    "oscillation": ("nothing", "lower_rate"),
    "divergence": ("lower_rate", "reset_moments"),
    "nonfinite": ("lower_rate",),
    "plateau": ("raise_rate",),
    "slow_learning": ("raise_rate",),
    "attention_logits": ("nothing", "lower_rate"),
}
"""Anomaly -> names of actions in the order in which they are tried. An anomaly without
a ladder is only told of. A name that no file has registered is passed over."""


def ladder_for(anomaly: str) -> tuple[str, ...]:
    """The ladder of an anomaly; empty where there is none."""
    return LADDERS.get(anomaly, ())
