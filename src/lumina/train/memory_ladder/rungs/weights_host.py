"""The weights of blocks leave the GPU."""

from __future__ import annotations

from typing import Any

from lumina.errors import LuminaError
from lumina.host_memory import host_memory_bytes
from lumina.plan.plan import Plan
from lumina.quantities import byte_size
from lumina.train.controls.weights_in import WeightsIn
from lumina.train.memory_ladder.rung import Attempt, Rung, register_rung

BESIDE = {"cuda": "host"}
"""Device -> the place beside it that costs the least time."""

SHARE = 0.7
"""Part of the host's memory that what lives there may take without being asked for."""


@register_rung
class WeightsHost(Rung):
    """Keep weights of blocks in host memory, and bring them block by block.

    Losses and gradients are those of before, so that the step is, too.
    """

    name = "weights_host"
    place = 70
    control = "weights_in"

    def next(self, plan: Plan, cleared: bool) -> Attempt | None:
        """Host memory, where the weights are on a GPU and the host has the room."""
        place = BESIDE.get(plan.device)
        if place is None or plan.weights_in != "device":
            return None
        try:
            beside = WeightsIn().edit(plan, place)
        except LuminaError:  # it does not go together with the run
            return None
        size = beside.elsewhere.get(place, 0)
        if not size or size * plan.world_size > SHARE * host_memory_bytes():
            return None
        if beside.memory["bound"] >= plan.memory["bound"]:
            return None  # so few blocks that all of them are there anyway
        text = f"{byte_size(size)} live beside the device ({place}), weights among them"
        return Attempt(self.name, text, self.control, place)

    def known_to_fit(self, plan: Plan, value: Any) -> Any:
        """Host memory, where the earlier run needed it."""
        attempt = self.next(plan, cleared=True)
        return value if attempt is not None and attempt.value == value else None
