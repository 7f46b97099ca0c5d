"""The control of phases: a run goes on to the next one before its present one ends."""

from __future__ import annotations

from typing import Any

from lumina.assemble.program import Program
from lumina.errors import LuminaError
from lumina.plan.plan import Plan
from lumina.train.controls.control import Control
from lumina.train.controls.table import register_control


@register_control
class NextPhase(Control):
    """The phase of the run: only the next one can be set."""

    name = "phase"
    allowed = "it is the name of the next phase"
    final = "a phase that is over does not come back"

    def makes_sense(self, value: Any) -> bool:
        """Whether it is a name."""
        return isinstance(value, str) and bool(value)

    def check_plan(self, plan: Plan) -> None:
        """Refuse a run in its last phase, or without any."""
        if following(plan) is None:
            raise LuminaError(
                "E002", "no phase follows in this run", "train with --phases"
            )

    def now(self, program: Program, step: int) -> str:
        """The present phase."""
        return program.live.next_phase or program.plan.phase

    def set(self, program: Program, value: Any) -> None:
        """End the present phase before the next step.

        Raises:
            LuminaError: E005 for another phase than the next.
        """
        if value != following(program.plan):
            raise LuminaError(
                "E005",
                f"{value!r} is not the phase that follows {program.plan.phase}",
                f"the next phase is {following(program.plan)}",
            )
        program.live.next_phase = value


def following(plan: Plan) -> str | None:
    """The phase after the one of a Plan; None where there is none."""
    if not plan.phases:
        return None
    place = plan.phases.index(plan.phase) + 1
    return plan.phases[place] if place < len(plan.phases) else None
