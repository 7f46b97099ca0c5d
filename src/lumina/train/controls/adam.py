"""Controls of two settings of Adam: the epsilon and the decay of the second moment."""

from __future__ import annotations

from typing import Any

from lumina.assemble.program import Program
from lumina.errors import LuminaError
from lumina.optim.declared import chosen_optimizer
from lumina.plan.plan import Plan
from lumina.train.controls.change import Change
from lumina.train.controls.control import Control, is_number
from lumina.train.controls.table import control_named, register_control

REWARM_SHARE, REWARM_MOST = 0.05, 100
"""Share of the run in which the rate rises again after moments were reset, and the
most steps of it."""


class _Setting(Control):
    """A number that the main optimizer reads from the Plan.

    Another Program is assembled for another value, since kernels and graphs have it
    as a constant.
    """

    def check_plan(self, plan: Plan) -> None:
        """Refuse an optimizer that has no such setting."""
        declared = chosen_optimizer(plan.optimizer)
        if self.name not in declared.settings.values():
            raise LuminaError(
                "E002",
                f"the optimizer {declared.name} has no {self.name}",
                "use an optimizer of the kind of Adam to change it",
            )

    def now(self, program: Program, step: int) -> float:
        """The Plan's value."""
        return float(getattr(program.plan, self.name))

    def fits(self, program: Program, value: Any) -> bool:
        """Whether the Program computes with it already."""
        return bool(self.now(program, 0) == value)

    def edit(self, plan: Plan, value: Any) -> Plan:
        """The Plan with another value."""
        if getattr(plan, self.name) == value:
            return plan
        why = f"changed to {value:g} while the run trained"
        return plan.replace(
            **{self.name: float(value)}, reasons=plan.reasons | {self.name: why}
        )

    def taken_back(self, plan: Plan, change: Change) -> Plan:
        """The Plan with the value from before."""
        return self.edit(plan, change.old)


@register_control
class Epsilon(_Setting):
    """What is added to the root of the second moment before the division by it."""

    name = "eps"
    allowed = "an epsilon is a number above 0, at most 1"
    settings = ("eps",)

    def makes_sense(self, value: Any) -> bool:
        """Whether it is above 0."""
        return is_number(value) and 0 < value <= 1


@register_control
class Beta2(_Setting):
    """How much of the second moment a step keeps.

    The moments start over, because the correction of their beginning would be that of
    another average: a second moment that was gathered slowly would count as complete,
    and steps would be many times too large. The rate warms up again meanwhile.
    """

    name = "beta2"
    allowed = "a decay rate is a number from 0, below 1"
    settings = ("beta2",)

    def check_plan(self, plan: Plan) -> None:
        """Refuse an optimizer without it, or one whose moments cannot start over."""
        super().check_plan(plan)
        control_named("optimizer_moments").check_plan(plan)

    def makes_sense(self, value: Any) -> bool:
        """Whether it is a share that is kept."""
        return is_number(value) and 0 <= value < 1

    def apply(
        self, program: Program, change: Change, step: int, undone: Change | None
    ) -> None:
        """Begin the moments anew, unless the value was the same."""
        if change.value == change.old:
            return
        steps = min(max(round(REWARM_SHARE * program.plan.steps), 1), REWARM_MOST)
        program.before_changes()
        program.optimizer.begin_anew()
        program.live.rewarm = (step, steps, 0.0)
