"""The learning rate of a step: a pure function of the plan and the step."""

from __future__ import annotations

from lumina.plan.plan import Plan
from lumina.plan.schedule_table import Place, chosen_schedule


def learning_rate_at(plan: Plan, step: int) -> float:
    """The learning rate of the step that follows `step` completed steps.

    Steps of an earlier batch size count by their rows (`plan.schedule_offset`).

    Args:
        plan: gives the peak, the floor, the schedule and the lengths.
        step: completed optimizer steps, from 0.
    """
    schedule = chosen_schedule(plan.lr_scheduler)
    defaults = {name: one.default for name, one in schedule.options.items()}
    place = Place(
        done=step + plan.schedule_offset,
        steps=plan.schedule_steps or plan.steps + plan.schedule_offset,
        warmup_steps=plan.warmup_steps,
        decay_steps=plan.decay_steps,
        peak=plan.learning_rate,
        floor=min(plan.min_lr, plan.learning_rate),
        options=defaults | plan.lr_scheduler_options,
    )
    return schedule.rate(place)
