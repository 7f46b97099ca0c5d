"""The control that has a checkpoint written beside those that are planned."""

from __future__ import annotations

from typing import Any

from lumina.assemble.program import Program
from lumina.train.controls.control import Control
from lumina.train.controls.of_a_run import of_a_run
from lumina.train.controls.table import register_control


@register_control
class ExtraCheckpoint(Control):
    """A checkpoint after the next step, on all ranks alike.

    One of the kind that is written now and then, so that it is verified, counts for
    `--auto-resume` and is removed in its turn. While gradients are not finite it waits.
    """

    name = "checkpoint"
    allowed = 'it is "now"'
    final = "what was written stays until its turn comes"
    kept_in_state = True

    def makes_sense(self, value: Any) -> bool:
        """Whether it asks for one."""
        return bool(value == "now")

    def now(self, program: Program, step: int) -> str:
        """There is no value that could be put back."""
        return "as planned"

    def set(self, program: Program, value: Any) -> None:
        """Have it written.

        Raises:
            LuminaError: E002 for a program that no run trains.
        """
        of_a_run(program.live.save, "to save")()
