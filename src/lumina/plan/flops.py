"""Floating-point operations of training, by the convention every MFU here uses."""

from __future__ import annotations

from lumina.model.spec import ModelSpec
from lumina.plan.count import Counts, count_parameters

CONVENTION = (
    "6 x active non-embedding parameters (the head counts) "
    "+ 6 x layers x heads x head_dim x sequence for causal attention"
)
"""Printed beside every MFU."""


def flops_per_token(spec: ModelSpec, counts: Counts | None = None) -> float:
    """Operations of forward and backward for one token, recomputation not counted.

    Causal attention looks at S / 2 positions on average: 12 * L * d * (S / 2). Under a
    window of W < S positions the average is W - W^2 / (2 S).
    """
    counts = counts or count_parameters(spec)
    length = spec.seq_length
    window = min(spec.window_size or length, length)
    attended = window - window * window / (2 * length)
    width = spec.num_heads * (spec.head_dim + spec.value_dim) / 2
    return 6.0 * counts.active_non_embedding + 12 * spec.num_layers * width * attended
