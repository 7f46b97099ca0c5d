"""Learning-rate schedules: pure functions of the step."""

from __future__ import annotations

import math

from lumina.plan.plan import Plan


def learning_rate_at(plan: Plan, step: int) -> float:
    """The learning rate of the step that follows `step` completed steps.

    Linear warm-up over `plan.warmup_steps`, then constant, linear, cosine (Loshchilov
    and Hutter 2017) or WSD: stable, then a linear decay over the last
    `plan.decay_steps` (Hu et al. 2024, MiniCPM). Steps of an earlier batch size count
    by their rows (`plan.schedule_offset`).

    Args:
        plan: gives the peak, the floor, the shape and the lengths.
        step: completed optimizer steps, from 0.
    """
    step += plan.schedule_offset
    steps = plan.schedule_steps or plan.steps + plan.schedule_offset
    peak, floor = plan.learning_rate, min(plan.min_lr, plan.learning_rate)
    if step < plan.warmup_steps:
        return peak * (step + 1) / plan.warmup_steps
    if plan.lr_scheduler == "constant":
        return peak
    if plan.lr_scheduler == "wsd":
        start = steps - plan.decay_steps
        length = plan.decay_steps
    else:
        start = plan.warmup_steps
        length = steps - plan.warmup_steps
    # The last step runs at the floor, whatever the length.
    share = min(max((step + 1 - start) / max(length, 1), 0.0), 1.0)
    if plan.lr_scheduler == "cosine":
        share = 0.5 * (1.0 - math.cos(math.pi * share))
    return peak + (floor - peak) * share
