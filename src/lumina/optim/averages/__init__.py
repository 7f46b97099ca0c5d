"""The weights that a run evaluates in place of its masters: one file for each kind."""

from __future__ import annotations

from typing import Any

import torch

from lumina.optim.averages.lookahead import Lookahead
from lumina.optim.averages.moving import WeightAverage
from lumina.optim.averages.stochastic import StochasticAverage
from lumina.optim.evaluated import Average, ByOptimizers, EvaluationWeights
from lumina.optim.optimizer import Optimizers

AVERAGES: tuple[type[Average], ...] = (WeightAverage, StochasticAverage, Lookahead)
"""Every kind of average; a run has one of them at most."""


def evaluation_weights(
    plan: Any, optimizers: Optimizers, device: torch.device
) -> EvaluationWeights | None:
    """What a run evaluates in place of its masters; None: nothing else.

    Args:
        plan: the Plan.
        optimizers: those of the Program.
        device: where numbers are counted.
    """
    for cls in AVERAGES:
        if getattr(plan, cls.option):
            return cls.of(plan, optimizers.averaged, device)
    found = ByOptimizers(optimizers, device=device)
    return found if found.slots else None
