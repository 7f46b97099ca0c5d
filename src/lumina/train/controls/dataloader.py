"""The control that makes anew what reads the rows."""

from __future__ import annotations

from typing import Any

from lumina.assemble.program import Program
from lumina.train.controls.control import Control
from lumina.train.controls.table import register_control


@register_control
class Dataloader(Control):
    """The threads and the queue that read rows; the rows stay the same ones."""

    name = "dataloader"
    allowed = 'it is "again"'
    kept_in_state = True

    def makes_sense(self, value: Any) -> bool:
        """Whether it asks for a new one."""
        return bool(value == "again")

    def now(self, program: Program, step: int) -> str:
        """One is like the other, so that an undo makes one more."""
        return "again"

    def set(self, program: Program, value: Any) -> None:
        """Make it anew before the next step."""
        program.live.feed_again = True
