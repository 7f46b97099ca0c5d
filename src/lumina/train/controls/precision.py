"""The control of the type that a run computes in."""

from __future__ import annotations

from dataclasses import replace
from typing import Any

from lumina.assemble.program import Program
from lumina.errors import LuminaError
from lumina.features.precisions import PRECISIONS
from lumina.plan.environment import probe
from lumina.plan.figures import with_spec
from lumina.plan.plan import Plan
from lumina.plan.precision import unsupported
from lumina.state.state import State
from lumina.train.controls.control import Control
from lumina.train.controls.table import register_control

PARTS = {"compute_dtype": "compute", "tf32": "tf32", "fp8": "fp8"}
"""Field of the Plan -> field of a `Precision`."""


def precision_of(plan: Plan) -> str:
    """The value of `--precision` that a Plan computes with."""
    return next(
        name
        for name, mode in PRECISIONS.items()
        if all(getattr(plan, at) == getattr(mode, of) for at, of in PARTS.items())
    )


@register_control
class ComputePrecision(Control):
    """The type of products and activations, for which another Program is assembled.

    Weights and moments stay in the type that they are kept in.
    """

    name = "precision"
    allowed = "it is a value of --precision, such as fp32 or bf16"
    settings = ("precision", "amp")

    def makes_sense(self, value: Any) -> bool:
        """Whether it is in the table of precisions."""
        return isinstance(value, str) and value in PRECISIONS

    def now(self, program: Program, step: int) -> str:
        """The name of the Plan's precision."""
        return precision_of(program.plan)

    def fits(self, program: Program, value: Any) -> bool:
        """Whether the Program computes so already."""
        return not self._fields(program.plan, value)

    def edit(self, plan: Plan, value: Any) -> Plan:
        """The Plan with another precision.

        Raises:
            LuminaError: E003 where the device cannot compute so.
        """
        changed = self._fields(plan, value)
        if not changed:
            return plan
        if problem := unsupported(PRECISIONS[value], probe(plan.device)):
            raise LuminaError("E003", f"precision {value}: {problem}", self.allowed)
        why = f"changed to {value} while the run trained"
        reasons = plan.reasons | dict.fromkeys(changed, why)
        plan = plan.replace(**changed, reasons=reasons)
        return with_spec(plan, plan.spec)

    def operate(self, plan: Plan, state: State, value: Any) -> tuple[Plan, State]:
        """A loss scale that was the constant one is no scale for float16."""
        narrow = PRECISIONS[value].compute == "float16"
        if narrow and state.plan.get("compute_dtype") != "float16":
            kept = {k: x for k, x in state.extra.items() if k != "loss_scale"}
            state = replace(state, extra=kept)
        return plan, state

    def _fields(self, plan: Plan, value: str) -> dict[str, Any]:
        """The fields of the Plan that would be others."""
        wanted = {at: getattr(PRECISIONS[value], of) for at, of in PARTS.items()}
        return {at: x for at, x in wanted.items() if getattr(plan, at) != x}
