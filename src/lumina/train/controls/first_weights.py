"""The control of the spread of the first weights, while a run has hardly begun."""

from __future__ import annotations

from collections.abc import Collection
from dataclasses import replace
from typing import Any

from lumina.assemble.program import Program
from lumina.errors import LuminaError
from lumina.plan.figures import with_spec
from lumina.plan.plan import Plan
from lumina.state.first_weights import respread
from lumina.state.state import State
from lumina.train.controls.change import Change
from lumina.train.controls.control import Control, is_number
from lumina.train.controls.table import control_named, register_control

LATEST = 10
"""Steps after which the weights are no longer the first ones."""


@register_control
class FirstSpread(Control):
    """`init_std`: all weights are scaled as if they had begun with another spread.

    What the optimizer remembers belongs to gradients of the weights before, and begins
    anew.
    """

    name = "init_std"
    allowed = "a spread of first weights is a number above 0, at most 1"
    final = "the weights have learned since"
    kept_in_state = True

    def makes_sense(self, value: Any) -> bool:
        """Whether it is above 0."""
        return is_number(value) and 0 < value <= 1

    def check_plan(self, plan: Plan) -> None:
        """Refuse weights that were not drawn, and moments that cannot start over."""
        if plan.spec.adapters or plan.freeze:
            raise LuminaError(
                "E002",
                "the run trains a part of a model that has learned already",
                "it is for runs that train all weights from nothing",
            )
        control_named("optimizer_moments").check_plan(plan)

    def now(self, program: Program, step: int) -> float:
        """The spread of the present model's first weights."""
        return program.plan.spec.init_std

    def fits(self, program: Program, value: Any) -> bool:
        """Whether the weights began so."""
        return bool(self.now(program, 0) == value)

    def edit(self, plan: Plan, value: Any) -> Plan:
        """The Plan of a model that began with this spread."""
        return with_spread(plan, value)

    def operate(self, plan: Plan, state: State, value: Any) -> tuple[Plan, State]:
        """The same Plan, and the State with weights of another spread.

        Raises:
            LuminaError: E002 for a run that is no longer at its beginning.
        """
        if state.step > LATEST:
            raise LuminaError(
                "E002",
                f"after {state.step:,} steps the weights are no longer the first ones",
                f"ask for it in the first {LATEST} steps, or begin again with "
                "--init-std",
            )
        return plan, respread(state, value)

    def apply(
        self, program: Program, change: Change, step: int, undone: Change | None
    ) -> None:
        """Begin the moments anew, unless the spread was the same."""
        if change.value != change.old:
            program.before_changes()
            program.optimizer.begin_anew()

    def taken_back(self, plan: Plan, change: Change) -> Plan:
        """The Plan with the spread from before."""
        return with_spread(plan, change.old)

    def as_left(
        self, plan: Plan, meta: State, last: Change | None, chosen: Collection[str]
    ) -> Plan:
        """The Plan with the spread that the checkpoint's weights began with."""
        return plan if last is None else with_spread(plan, meta.spec["init_std"])


def with_spread(plan: Plan, value: float) -> Plan:
    """A Plan whose model begins with this spread."""
    return with_spec(plan, replace(plan.spec, init_std=float(value)))
