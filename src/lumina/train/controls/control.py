"""What a control declares: its values, and how one of them takes effect."""

from __future__ import annotations

import math
from collections.abc import Collection
from typing import Any, ClassVar

from lumina.assemble.program import Program
from lumina.errors import LuminaError
from lumina.plan.plan import Plan
from lumina.state.state import State
from lumina.train.controls.change import Change


class Control:
    """One thing that can be changed while a job runs. A subclass declares one.

    A value that `fits` the running Program is set in it between two steps. For any
    other value the Program's State is captured, the Plan is edited (`edit`), the State
    too if need be (`operate`), and another Program is assembled; then the value is set.
    A change is undone by setting the value from before it.

    Attributes:
        name: how it is requested, pinned and journalled.
        allowed: which values make sense, as a sentence.
        final: why a change cannot be undone; empty where it can.
        kept_in_state: a Program that is assembled from a State has the value already.
            Otherwise it is set again after every assembly and every resume.
        settings: options that win over an earlier change when they are given another
            value at a resume.
    """

    name: ClassVar[str]
    allowed: ClassVar[str]
    final: ClassVar[str] = ""
    kept_in_state: ClassVar[bool] = False
    settings: ClassVar[tuple[str, ...]] = ()

    def makes_sense(self, value: Any) -> bool:
        """Whether any run could take the value."""
        raise NotImplementedError

    def now(self, program: Program, step: int) -> Any:
        """The present value.

        Args:
            program: what trains.
            step: completed steps.
        """
        raise NotImplementedError

    def check_plan(self, plan: Plan) -> None:
        """Refuse a model or a run that has nothing to change here.

        Raises:
            LuminaError: E002, naming the option that would give it.
        """

    def fits(self, program: Program, value: Any) -> bool:
        """Whether the value can be set in the Program as it was assembled."""
        return True

    def edit(self, plan: Plan, value: Any) -> Plan:
        """The Plan of a Program in which the value can be set.

        Raises:
            LuminaError: E002 when there is none.
        """
        return plan

    def taken_back(self, plan: Plan, change: Change) -> Plan:
        """The Plan of a run that went back to before a change of this control.

        By default what was changed stays: a smaller forward fits into memory still.
        """
        return plan

    def operate(self, plan: Plan, state: State, value: Any) -> tuple[Plan, State]:
        """The Plan and the State of the next Program, where weights change too."""
        return plan, state

    def set(self, program: Program, value: Any) -> None:
        """Make the next step use the value."""

    def apply(
        self, program: Program, change: Change, step: int, undone: Change | None
    ) -> None:
        """Set the value of a change.

        Args:
            program: what trains; the value fits.
            change: what to apply.
            step: completed steps.
            undone: the earlier change that this one takes back, if it is an undo.
        """
        self.set(program, change.value)

    def as_left(
        self, plan: Plan, meta: State, last: Change | None, chosen: Collection[str]
    ) -> Plan:
        """The Plan of a resumed run, with what this control made of it before.

        Args:
            plan: what would be decided today.
            meta: the checkpoint that the run goes on from, without its tensors.
            last: the newest change of this control that holds.
            chosen: options that were given another value for the resume.

        Raises:
            LuminaError: E002 when the change can no longer be made.
        """
        if last is None or set(self.settings) & set(chosen):
            return plan
        return self.edit(plan, last.value)

    def check_value(self, value: Any) -> None:
        """Refuse a value that makes no sense.

        Raises:
            LuminaError: E005, naming the control and the values that do.
        """
        if isinstance(value, bool) or not self.makes_sense(value):
            raise LuminaError(
                "E005", f"{value!r} makes no sense for {self.name}", self.allowed
            )


def is_number(value: Any) -> bool:
    """Whether a value is a finite number."""
    return isinstance(value, int | float) and math.isfinite(value)
