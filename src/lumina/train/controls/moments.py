"""The control of the optimizer's moments: they can start over."""

from __future__ import annotations

from typing import Any

from lumina.assemble.program import Program
from lumina.errors import LuminaError
from lumina.optim.declared import chosen_optimizer
from lumina.plan.plan import Plan
from lumina.train.controls.change import Change
from lumina.train.controls.control import Control
from lumina.train.controls.table import register_control


@register_control
class OptimizerMoments(Control):
    """What the optimizers remember of earlier gradients; weights stay as they are."""

    name = "optimizer_moments"
    allowed = 'it is "reset", or {"rewarm": steps in which the rate rises from 0 again}'
    final = "what the moments held is gone"
    kept_in_state = True

    def makes_sense(self, value: Any) -> bool:
        """Whether it asks for a new beginning."""
        if not isinstance(value, dict):
            return bool(value == "reset")
        steps = value.get("rewarm")
        if not isinstance(steps, int) or isinstance(steps, bool):
            return False
        return len(value) == 1 and steps >= 1

    def check_plan(self, plan: Plan) -> None:
        """Refuse an optimizer that keeps nothing, or weights beside its moments."""
        declared = chosen_optimizer(plan.optimizer)
        if declared.evaluates:
            raise LuminaError(
                "E002",
                f"{declared.name} keeps the weights for evaluation beside its moments",
                "use another optimizer to be able to reset them",
            )
        if not declared.states:
            raise LuminaError(
                "E002",
                f"{declared.name} keeps no moments, so there is nothing to reset",
                "use another optimizer, or leave this change out",
            )

    def now(self, program: Program, step: int) -> str:
        """Moments are not a value that could be put back."""
        return "kept"

    def apply(
        self, program: Program, change: Change, step: int, undone: Change | None
    ) -> None:
        """Give every optimizer its first state and step count again."""
        program.before_changes()
        program.optimizer.begin_anew()
        if isinstance(change.value, dict):
            program.live.rewarm = (step, change.value["rewarm"], 0.0)
