"""What a lever has to keep to before it is trusted. Frozen before it was judged.

The benchmark of the guard (`benchmarks/guard_mutants.py`) has a set of mutants that was
written after these values were fixed; a change here makes its published rates void.
"""

from __future__ import annotations

from dataclasses import dataclass


@dataclass(frozen=True)
class Thresholds:
    """The limits of a pretest.

    Attributes:
        alpha: chance that any of the levers judged together is trusted wrongly.
        strict_alpha: chance that a slope of a single tensor is blamed wrongly.
        slope: how far the slope of all gradients on the reference's may be from the
            baseline's, as a share.
        fp8_slope: likewise for levers that quantise to 8 bits.
        error_factor: error of a tensor's gradient over the baseline's own.
        error_floor: error that every tensor may have, relative to its norm.
        small: a tensor counts for a slope where its gradient's norm is at least this
            share of the norm of all.
        loss_factor: error of the loss over the baseline's own.
        loss_floor: relative error that every loss may have.
        drift_floor: the same after several steps of training.
        lever_speed: what the speed of a lever over the baseline's must be above.
        bundle_speed: the same for several levers together.
        batches: independent batches of each shape.
        paired_steps: steps that all three learn from the same weights.
        leak_steps: last of these steps whose memory is looked at.
        leak_bytes: growth over them that is no leak yet.
        blocks: blocks of baseline, lever, lever, baseline that are timed.
    """

    alpha: float = 0.05
    strict_alpha: float = 0.01
    slope: float = 0.003
    fp8_slope: float = 0.01
    error_factor: float = 2.0
    error_floor: float = 1e-4
    small: float = 1e-4
    loss_factor: float = 3.0
    loss_floor: float = 5e-4
    drift_floor: float = 2e-3
    lever_speed: float = 1.00
    bundle_speed: float = 1.03
    batches: int = 8
    paired_steps: int = 20
    leak_steps: int = 8
    leak_bytes: int = 4096
    blocks: int = 8


THRESHOLDS = Thresholds()
"""Those that are used."""
