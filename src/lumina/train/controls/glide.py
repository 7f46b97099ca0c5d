"""The control that lets the learning rate fall evenly beside its schedule."""

from __future__ import annotations

from typing import Any

from lumina.assemble.program import Program
from lumina.train.controls.change import Change
from lumina.train.controls.control import Control, is_number
from lumina.train.controls.table import register_control


@register_control
class RateGlide(Control):
    """The learning rate falls evenly to a share of the schedule's, and stays there."""

    name = "rate_glide"
    allowed = (
        'it is {"steps": whole number from 1, "share": number above 0, at most 1}; a '
        "share of 1 leaves the rate to the schedule"
    )
    kept_in_state = True

    def makes_sense(self, value: Any) -> bool:
        """Whether it says in how many steps, and down to which share."""
        if not isinstance(value, dict) or value.keys() != {"steps", "share"}:
            return False
        steps, share = value["steps"], value["share"]
        whole = isinstance(steps, int) and not isinstance(steps, bool) and steps >= 1
        return whole and is_number(share) and 0 < share <= 1

    def now(self, program: Program, step: int) -> dict[str, Any]:
        """The present share, as a change that would hold it."""
        return {"steps": 1, "share": program.live.glided(step)}

    def apply(
        self, program: Program, change: Change, step: int, undone: Change | None
    ) -> None:
        """Begin with the next step; an undo ends the fall at once."""
        asked = change.value
        program.live.glide = (step, asked["steps"], asked["share"])
        if undone is not None:
            program.live.glide = None
