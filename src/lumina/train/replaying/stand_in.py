"""What a rule sees of the controls of a run, without the program that is trained."""

from __future__ import annotations

import copy
from collections.abc import Mapping
from typing import Any

import torch

from lumina.assemble.adjustable import Adjustable
from lumina.errors import LuminaError
from lumina.plan.plan import Plan
from lumina.train.controls import Change, Control, control_named


class StandIn:
    """Holds what controls read and set between steps.

    A control that needs more of a program (its weights, its optimizer) finds nothing
    here; what it did is taken from the record.

    Args:
        plan: of the run.

    Attributes:
        plan: as the changes so far have made it.
        live: the scalars that a step reads.
        held: control -> the value that was set last.
    """

    def __init__(self, plan: Plan) -> None:
        self.plan = plan
        self.live = Adjustable(
            learning_rate=torch.tensor(0.0),
            max_grad_norm=torch.tensor(float(plan.max_grad_norm)),
            weight_decay=plan.weight_decay,
        )
        self.held: dict[str, Any] = {}

    def now(self, name: str, step: int) -> Any:
        """The value of a control after `step` steps; None where it is not known."""
        control = control_named(name)
        try:
            return control.now(self, step)  # type: ignore[arg-type]
        except (AttributeError, TypeError):
            return self.held.get(name)

    def apply(self, change: Change, step: int, undone: Change | None) -> None:
        """Set the value of a change that was applied."""
        control = control_named(change.name)
        self.held[change.name] = change.value
        self._edit(control, change)
        try:
            control.apply(self, change, step, undone)  # type: ignore[arg-type]
        except (AttributeError, TypeError, LuminaError):
            return  # its effect is within the program

    def snapshot(self) -> Mapping[str, Any]:
        """What `restore` takes."""
        return copy.deepcopy({"live": self.live, "held": self.held, "plan": self.plan})

    def restore(self, then: Mapping[str, Any], factor: float) -> None:
        """Go back to a snapshot, as a rollback does.

        Args:
            then: of `snapshot`.
            factor: on the learning rate from here on.
        """
        then = copy.deepcopy(dict(then))
        self.live, self.held, self.plan = then["live"], then["held"], then["plan"]
        self.live.learning_rate_scale *= factor

    def before_changes(self) -> None:
        """Nothing has to be waited for."""

    def _edit(self, control: Control, change: Change) -> None:
        try:
            if not control.fits(self, change.value):  # type: ignore[arg-type]
                self.plan = control.edit(self.plan, change.value)
        except (AttributeError, TypeError):
            return
