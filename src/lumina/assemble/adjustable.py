"""What may change between two steps while the program stays as it is."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Any

from torch import Tensor


@dataclass
class Adjustable:
    """Device scalars a step reads: what changes without assembling again.

    Attributes:
        learning_rate: [] float32.
        max_grad_norm: [] float32; 0: no clipping.
        weight_decay: a plain float, handed to the kernel at each step.
        learning_rate_scale: factor on the schedule.
        mod_capacity: share of tokens of Mixture-of-Depths blocks; None: as planned.
        source_weights: the share of each source of a mixture; None: as they are set.
        next_phase: the phase that the run goes on to before its next step.
        rollback: takes the run back before its next step; None where no run trains.
    """

    learning_rate: Tensor
    max_grad_norm: Tensor
    weight_decay: float
    learning_rate_scale: float = 1.0
    mod_capacity: float | None = None
    source_weights: dict[str, float] | None = None
    next_phase: str | None = None
    rollback: Callable[[Mapping[str, Any]], None] | None = None
