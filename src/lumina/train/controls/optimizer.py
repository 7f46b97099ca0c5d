"""Controls of the update: the learning rate, the clip and the weight decay."""

from __future__ import annotations

from typing import Any

from lumina.assemble.program import Program
from lumina.errors import LuminaError
from lumina.plan.plan import Plan
from lumina.plan.schedule import learning_rate_at
from lumina.train.controls.change import Change
from lumina.train.controls.control import Control, is_number
from lumina.train.controls.table import register_control


@register_control
class LearningRate(Control):
    """The rate of the next step; the schedule goes on from there, scaled."""

    name = "learning_rate"
    allowed = "a rate is a number above 0, at most 1"
    kept_in_state = True

    def makes_sense(self, value: Any) -> bool:
        """Whether it is a rate."""
        return is_number(value) and 0 < value <= 1

    def now(self, program: Program, step: int) -> float:
        """The rate of the next step."""
        return learning_rate_at(program.plan, step) * program.live.rate_scale(step)

    def apply(
        self, program: Program, change: Change, step: int, undone: Change | None
    ) -> None:
        """Scale the schedule so that the next step has the rate.

        Raises:
            LuminaError: E005 where the schedule is at 0, which no factor changes.
        """
        live, scheduled = program.live, learning_rate_at(program.plan, step)
        scheduled *= live.bent(step) or 1.0
        change.old_scale = live.learning_rate_scale
        if undone is not None and undone.old_scale is not None:
            live.learning_rate_scale = undone.old_scale
            change.value = scheduled * undone.old_scale
        elif scheduled > 0:
            live.learning_rate_scale = change.value / scheduled
        else:
            raise LuminaError(
                "E005",
                f"the schedule is at 0 after step {step}",
                "a factor on 0 changes nothing: set --min-lr above 0",
            )


class _FromZero(Control):
    """A number from 0 on."""

    kept_in_state = True

    def makes_sense(self, value: Any) -> bool:
        """Whether it is a finite number from 0 on."""
        return is_number(value) and value >= 0


@register_control
class MaxGradNorm(_FromZero):
    """The norm that gradients are clipped to; 0 clips nothing."""

    name = "max_grad_norm"
    allowed = "a norm is a number from 0; 0 clips nothing"

    def check_plan(self, plan: Plan) -> None:
        """Refuse a run whose weights change before all gradients are there."""
        if plan.updates_in_backward:
            raise LuminaError(
                "E002",
                "weights change in the backward pass, before the norm of all gradients "
                "is known",
                "train without --optimizer-in-backward to clip",
            )

    def now(self, program: Program, step: int) -> float:
        """The norm that the next step clips to."""
        return program.live.max_grad_norm.item()

    def set(self, program: Program, value: Any) -> None:
        """Write the scalar that the step reads."""
        program.live.max_grad_norm.fill_(value)


@register_control
class WeightDecay(_FromZero):
    """The decoupled weight decay of matrices."""

    name = "weight_decay"
    allowed = "a decay is a number from 0"

    def now(self, program: Program, step: int) -> float:
        """The decay of the next step."""
        return program.live.weight_decay

    def set(self, program: Program, value: Any) -> None:
        """Hand the next step another decay."""
        program.live.weight_decay = value
