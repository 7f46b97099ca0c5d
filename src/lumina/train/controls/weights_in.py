"""Where the weights of blocks live while they do not compute."""

from __future__ import annotations

from typing import Any

from lumina.assemble.streamed.allowed import problem_of
from lumina.errors import LuminaError
from lumina.features import FEATURES, active_features, conflict
from lumina.plan.figures import with_spec
from lumina.plan.plan import Plan
from lumina.train.controls.layout import Layout
from lumina.train.controls.table import register_control


@register_control
class WeightsIn(Layout):
    """Where the weights of blocks live, those that are frozen or all."""

    name = "weights_in"
    allowed = "it is device, host (beside a CUDA device) or disk"
    settings = ("weights_in",)

    def makes_sense(self, value: Any) -> bool:
        """Whether it is one of the three words."""
        return value in ("device", "host", "disk")

    def edit(self, plan: Plan, value: Any) -> Plan:
        """The Plan with weights that live there.

        Raises:
            LuminaError: E003 for the host's memory, where that is the device's; E002
                where the run has what needs them on the device.
        """
        if value == "host" and plan.device != "cuda":
            raise LuminaError(
                "E003",
                f"the weights of a run on {plan.device} are in host memory already",
                "choose disk",
            )
        edited = plan.replace(weights_in=value)
        if value == "device":
            return with_spec(edited, plan.spec)
        active = active_features(FEATURES, plan)
        found = conflict(FEATURES, f"weights_{value}", active)
        problem = f"{found[0]}: {found[1]}" if found else problem_of(edited)
        if problem:
            raise LuminaError(
                "E002",
                f"weights_in {value} cannot be in this run: {problem}",
                "leave weights_in at device",
            )
        return with_spec(edited, plan.spec)
