"""The control that ends a run: because it is done, or because it cannot go on."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from lumina.assemble.program import Program
from lumina.errors import LuminaError
from lumina.train.controls.control import Control
from lumina.train.controls.table import register_control


@register_control
class StopRun(Control):
    """The end of a run before its next step.

    A run that is done saves its State and reports what it learned, and one that is
    paused goes on when it is resumed; one that has failed ends with E301, and its last
    checkpoint stays the one from before.
    """

    name = "stop_run"
    allowed = (
        'it is {"reason": TEXT, "failed": true or false, "advice": TEXT}, and maybe '
        '"paused": true'
    )
    final = "a run that has ended is resumed"
    kept_in_state = True

    def makes_sense(self, value: Any) -> bool:
        """Whether it says why, and whether the run has failed."""
        needed = {"reason", "failed", "advice"}
        if not isinstance(value, dict) or value.keys() - {"paused"} != needed:
            return False
        texts = isinstance(value["reason"], str) and isinstance(value["advice"], str)
        failed, paused = value["failed"], value.get("paused", False)
        whole = isinstance(failed, bool) and isinstance(paused, bool)
        return texts and whole and not (failed and paused)

    def now(self, program: Program, step: int) -> None:
        """There is no present value."""

    def set(self, program: Program, value: Any) -> None:
        """End the run before its next step."""
        program.live.ending = value


def is_pause(ending: Mapping[str, Any]) -> bool:
    """Whether a run that ends so has steps left to train.

    Args:
        ending: the value of the control.
    """
    return bool(ending.get("paused", False))


def reason_of(ending: Mapping[str, Any], step: int) -> str:
    """Why a run is done.

    Args:
        ending: the value of the control.
        step: completed steps.

    Raises:
        LuminaError: E301 for a run that has failed.
    """
    reason: str = ending["reason"]
    if ending["failed"]:
        raise LuminaError(
            "E301", f"stopped after step {step}: {reason}", ending["advice"]
        )
    return reason
