"""The control of how often a run is evaluated."""

from __future__ import annotations

from typing import Any

from lumina.assemble.program import Program
from lumina.train.controls.control import Control
from lumina.train.controls.table import register_control


@register_control
class EvalEvery(Control):
    """Steps from one evaluation to the next; 0: only at the end."""

    name = "eval_every"
    allowed = "it is a whole number of steps from 0"
    settings = ("eval_every_n_batches",)

    def makes_sense(self, value: Any) -> bool:
        """Whether it is a number of steps."""
        return isinstance(value, int) and value >= 0

    def now(self, program: Program, step: int) -> int:
        """The present number."""
        return program.plan.eval_every

    def set(self, program: Program, value: Any) -> None:
        """Evaluate at the multiples of another number from here on."""
        program.replan(program.plan.replace(eval_every=int(value)))
