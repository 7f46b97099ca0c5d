"""Fewer rows in a forward, and more forwards in a step."""

from __future__ import annotations

from typing import Any

from lumina.plan.plan import Plan
from lumina.train.memory_ladder.rung import ROUNDING, Attempt, Rung, register_rung


@register_rung
class MicroBatch(Rung):
    """Halve the rows of a forward, down to one; the rows of the step stay.

    The loss of a step is a sum over its tokens divided by their number, so that the
    gradient does not depend on how the rows are divided, but for what is drawn or
    counted in each forward.
    """

    name = "micro_batch"
    place = 20
    control = "micro_batch_size"

    def next(self, plan: Plan, cleared: bool) -> Attempt | None:
        """At most half of the rows, and a number that divides the step."""
        if plan.micro_batch_size == 1:
            return None
        size = largest_divisor(plan, plan.micro_batch_size // 2)
        return Attempt(self.name, described(plan, size), self.control, size)

    def known_to_fit(self, plan: Plan, value: Any) -> Any:
        """No more rows than that."""
        if plan.micro_batch_size <= value:
            return None
        return largest_divisor(plan, value)

    def numbers(self, plan: Plan) -> str:
        """Each forward draws and counts for itself."""
        found = []
        moe = plan.spec.moe
        if drawn := draws(plan):
            found.append(f"{drawn} draws other numbers for smaller forwards")
        if moe is not None and moe.dispatch == "capacity":
            found.append("places of experts are counted in smaller forwards")
        if moe is not None and moe.balance_scope == "micro_batch":
            found.append("the balance of experts is taken of smaller forwards")
        return " and ".join(found) or ROUNDING


def draws(plan: Plan) -> str:
    """What of a model draws random numbers in a forward; empty: nothing."""
    spec, names = plan.spec, []
    moe = spec.moe
    if spec.dropout or any(one.dropout for one in spec.adapters):
        names.append("dropout")
    if moe is not None and moe.expert_dropout:
        names.append("expert_dropout")
    if moe is not None and moe.jitter:
        names.append("router jitter")
    return ", ".join(names)


def largest_divisor(plan: Plan, most: int) -> int:
    """The largest forward of at most this many rows that divides a device's rows."""
    rows = plan.micro_batch_size * plan.grad_accum
    return next(size for size in range(most, 0, -1) if rows % size == 0)


def described(plan: Plan, size: int) -> str:
    """In words: what a step looks like with forwards of `size` rows."""
    forwards = plan.micro_batch_size * plan.grad_accum // size
    return (
        f"a forward has {size} row{'s' if size > 1 else ''} instead of "
        f"{plan.micro_batch_size}, and a step {forwards} forwards on each device "
        f"instead of {plan.grad_accum}"
    )
