"""The control that warms the learning rate up again."""

from __future__ import annotations

from typing import Any

from lumina.assemble.program import Program
from lumina.train.controls.change import Change
from lumina.train.controls.control import Control, is_number
from lumina.train.controls.table import register_control


@register_control
class Rewarm(Control):
    """The learning rate falls to a share and rises evenly to the schedule's again."""

    name = "rewarm"
    allowed = 'it is {"steps": whole number from 1, "share": number from 0, below 1}'
    kept_in_state = True

    def makes_sense(self, value: Any) -> bool:
        """Whether it says for how long, and from where."""
        if not isinstance(value, dict) or value.keys() != {"steps", "share"}:
            return False
        steps, share = value["steps"], value["share"]
        whole = isinstance(steps, int) and not isinstance(steps, bool) and steps >= 1
        return whole and is_number(share) and 0 <= share < 1

    def now(self, program: Program, step: int) -> dict[str, Any]:
        """The present share, as a change that would hold it."""
        return {"steps": 1, "share": min(program.live.warmed(step), 0.999)}

    def apply(
        self, program: Program, change: Change, step: int, undone: Change | None
    ) -> None:
        """Begin with the next step; an undo ends the warm-up at once."""
        asked = change.value
        program.live.rewarm = (step, asked["steps"], asked["share"])
        if undone is not None:
            program.live.rewarm = None
