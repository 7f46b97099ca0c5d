"""The control that takes a running job back to an earlier step."""

from __future__ import annotations

from typing import Any

from lumina.assemble.program import Program
from lumina.train.controls.control import Control
from lumina.train.controls.of_a_run import of_a_run
from lumina.train.controls.table import register_control
from lumina.train.recovery.request import is_request


@register_control
class Rollback(Control):
    """Weights, moments, schedule and counters of an earlier step.

    The step is one of the last `steps` of which there is a snapshot or a checkpoint.
    """

    name = "rollback"
    allowed = (
        '{"steps": 100} goes back by at most 100 steps; "skip_data" (true or false), '
        '"learning_rate_factor" (above 0, at most 1), "rewarm_steps" (from 0 on), '
        '"best", "earliest" and "marked" (true or false) may stand beside it'
    )
    final = "what it took back is in the folder `undone` of the run"
    kept_in_state = True

    def makes_sense(self, value: Any) -> bool:
        """Whether it describes a rollback."""
        return is_request(value)

    def now(self, program: Program, step: int) -> None:
        """There is no present value."""

    def set(self, program: Program, value: Any) -> None:
        """Go back before the next step.

        Raises:
            LuminaError: E304 where there is nothing to go back to; E002 for a program
                that no run trains.
        """
        of_a_run(program.live.rollback, "to go back to")(value)
