"""The control that takes a snapshot of a running job, to come back to."""

from __future__ import annotations

from typing import Any

from lumina.assemble.program import Program
from lumina.errors import LuminaError
from lumina.plan.plan import Plan
from lumina.train.controls.control import Control
from lumina.train.controls.of_a_run import of_a_run
from lumina.train.controls.table import register_control


@register_control
class Snapshot(Control):
    """A snapshot after the next step, which stays until the run has gone back to it."""

    name = "snapshot"
    allowed = 'it is "marked"'
    kept_in_state = True

    def makes_sense(self, value: Any) -> bool:
        """Whether it asks for the one that there can be."""
        return bool(value == "marked")

    def check_plan(self, plan: Plan) -> None:
        """Refuse a run that has room for none beside its own."""
        if plan.recovery.get("snapshots", 0) < 2:
            raise LuminaError(
                "E002",
                "the run keeps fewer than two snapshots in memory",
                "set --snapshot-every, and --snapshots-kept to 2 or more",
            )

    def now(self, program: Program, step: int) -> str:
        """A snapshot changes nothing, so that an undo takes one more."""
        return "marked"

    def set(self, program: Program, value: Any) -> None:
        """Have it taken.

        Raises:
            LuminaError: E002 for a program that no run trains.
        """
        of_a_run(program.live.snapshot, "to take")()
