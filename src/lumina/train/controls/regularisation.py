"""Controls of regularisation: dropout and label smoothing."""

from __future__ import annotations

from dataclasses import replace
from typing import Any

from lumina.assemble.program import Program
from lumina.errors import LuminaError
from lumina.model.block import Block
from lumina.model.kinds.table import why_not
from lumina.plan.plan import Plan
from lumina.train.controls.control import Control, is_number
from lumina.train.controls.table import register_control


class _Share(Control):
    """A number from 0, below 1."""

    def makes_sense(self, value: Any) -> bool:
        """Whether it is a number from 0, below 1."""
        return is_number(value) and 0 <= value < 1


@register_control
class Dropout(_Share):
    """The chance that an element of a branch of a block is hidden in training.

    Compiled blocks are compiled again once when it changes.
    """

    name = "dropout"
    allowed = "a chance is a number from 0, below 1"
    settings = ("dropout",)

    def now(self, program: Program, step: int) -> float:
        """The chance in the next step."""
        return program.plan.spec.dropout

    def set(self, program: Program, value: Any) -> None:
        """Write the chance in every block, and in the Plan's shape.

        Raises:
            LuminaError: E002 for a model that has none of Lumina's own blocks.
        """
        blocks = [m for m in program.network.modules() if isinstance(m, Block)]
        if not blocks:
            raise LuminaError(
                "E002",
                "no block of this model has dropout",
                "use a block type that has it",
            )
        for block in blocks:
            block.dropout = float(value)
        spec = replace(program.plan.spec, dropout=float(value))
        program.replan(program.plan.replace(spec=spec))


@register_control
class LabelSmoothing(_Share):
    """The share of a label that all tokens have alike in training."""

    name = "label_smoothing"
    allowed = "a share is a number from 0, below 1"
    settings = ("label_smoothing",)

    def check_plan(self, plan: Plan) -> None:
        """Refuse a loss that does not go with it."""
        if plan.keeps == "outputs" or why_not(plan.spec, "label_smoothing"):
            raise LuminaError(
                "E002",
                "the loss of this run does not smooth labels",
                "train a language model without --preservation-method outputs",
            )

    def now(self, program: Program, step: int) -> float:
        """The share in the next step."""
        return program.plan.label_smoothing

    def set(self, program: Program, value: Any) -> None:
        """Write the share in the objective, and in the Plan."""
        program.network.objective.label_smoothing = float(value)
        program.replan(program.plan.replace(label_smoothing=float(value)))
