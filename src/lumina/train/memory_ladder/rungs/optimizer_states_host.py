"""The optimizer's states leave the GPU."""

from __future__ import annotations

from typing import Any

from lumina.host_memory import host_memory_bytes
from lumina.plan.elsewhere import elsewhere
from lumina.plan.figures import layout_of
from lumina.plan.plan import Plan
from lumina.quantities import byte_size
from lumina.train.memory_ladder.rung import ROUNDING, Attempt, Rung, register_rung

BESIDE = {"cuda": "host"}
"""Device -> the place beside it that costs the least time."""

SHARE = 0.7
"""Part of the host's memory that states may take without being asked for."""


@register_rung
class OptimizerStatesHost(Rung):
    """Keep the states in host memory, and bring them page by page.

    The states are those of before, so that the step is, too, but for what an optimizer
    stacks or draws page by page.
    """

    name = "optimizer_states_host"
    place = 60
    control = "optimizer_states_in"

    def next(self, plan: Plan, cleared: bool) -> Attempt | None:
        """Host memory, where the states are on a GPU and the host has the room."""
        place = BESIDE.get(plan.device)
        if place is None or plan.optimizer_states_in != "device":
            return None
        beside = plan.replace(optimizer_states_in=place)
        size = elsewhere(plan.spec, layout_of(beside)).get(place, 0)
        if not size or size * plan.world_size > SHARE * host_memory_bytes():
            return None
        text = f"{byte_size(size)} of optimizer states live beside the device ({place})"
        return Attempt(self.name, text, self.control, place)

    def known_to_fit(self, plan: Plan, value: Any) -> Any:
        """Host memory, where the earlier run needed it."""
        attempt = self.next(plan, cleared=True)
        return value if attempt is not None and attempt.value == value else None

    def numbers(self, plan: Plan) -> str:
        """Matrices are stacked, and numbers are drawn, page by page."""
        if plan.weights_dtype != "float32":
            return "the rounding of 16-bit weights draws other numbers page by page"
        groups = (one.rpartition("=")[2] for one in plan.optimizer_groups)
        return ROUNDING if "muon" in (plan.optimizer, *groups) else ""
