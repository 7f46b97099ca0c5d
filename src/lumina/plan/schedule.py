"""The learning rate of a step: a pure function of the plan and the step."""

from __future__ import annotations

from lumina.plan.plan import Plan
from lumina.plan.schedule_table import Place, chosen_schedule

SAMPLES = 256
"""Steps at which a schedule is looked at for its mean."""


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


def mean_rate(plan: Plan, since: int = 0) -> float:
    """The mean of the scheduled rates of a run; of long ones, of `SAMPLES` steps.

    Args:
        plan: gives the schedule.
        since: completed steps after which it is taken; fewer than the run has.
    """
    left = max(plan.steps - since, 1)
    count = min(left, SAMPLES)
    places = [since + round((n + 0.5) * left / count - 0.5) for n in range(count)]
    return sum(learning_rate_at(plan, step) for step in places) / count
