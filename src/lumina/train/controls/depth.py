"""The control of Mixture of Depths: the share of tokens that its blocks take."""

from __future__ import annotations

from collections.abc import Collection
from dataclasses import replace
from typing import Any

from lumina.assemble.program import Program
from lumina.errors import LuminaError
from lumina.model.kinds.mod import CAPACITY, capacity_at
from lumina.model.spec import ModSpec
from lumina.plan.figures import with_spec
from lumina.plan.plan import Plan
from lumina.state.state import State
from lumina.train.controls.change import Change
from lumina.train.controls.control import Control, is_number
from lumina.train.controls.table import register_control


@register_control
class ModCapacity(Control):
    """The share of tokens that Mixture-of-Depths blocks take.

    A share on the ladder is set in the Program; for any other the ladder gets one more
    rung and the Program is assembled again.
    """

    name = CAPACITY
    allowed = "a share is a number above 0, at most 1"
    kept_in_state = True

    def makes_sense(self, value: Any) -> bool:
        """Whether it is a share of the tokens."""
        return is_number(value) and 0 < value <= 1

    def check_plan(self, plan: Plan) -> None:
        """Refuse a model in which no block chooses among tokens."""
        _depth(plan)

    def now(self, program: Program, step: int) -> float:
        """The share of the next step."""
        return capacity_at(program, step)

    def fits(self, program: Program, value: Any) -> bool:
        """Whether the share is one that the Program was assembled for."""
        return float(value) in _depth(program.plan).ladder

    def edit(self, plan: Plan, value: Any) -> Plan:
        """The Plan whose ladder has the share."""
        mod = _depth(plan)
        ladder = tuple(sorted({*mod.ladder, float(value)}))
        return with_spec(plan, replace(plan.spec, mod=replace(mod, ladder=ladder)))

    def set(self, program: Program, value: Any) -> None:
        """Take another share from the next step on."""
        program.live.of_kinds[CAPACITY] = float(value)

    def as_left(
        self, plan: Plan, meta: State, last: Change | None, chosen: Collection[str]
    ) -> Plan:
        """The Plan as it is: the State holds the share."""
        return plan


def _depth(plan: Plan) -> ModSpec:
    mod = plan.spec.mod
    if mod is None or mod.mode == "static":
        raise LuminaError(
            "E002",
            "no block of this model chooses among tokens",
            "train with --use-mod and --mod-mode dynamic",
        )
    return mod
