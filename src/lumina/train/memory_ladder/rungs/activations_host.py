"""The inputs of blocks wait in the memory of the host."""

from __future__ import annotations

from typing import Any

from lumina.features import FEATURES, active_features, conflict
from lumina.plan.checkpointing import kind_of
from lumina.plan.plan import Plan
from lumina.train.memory_ladder.rung import Attempt, Rung, register_rung

BESIDE = {"cuda": "host"}
"""Device -> the place beside it that costs the least time."""


@register_rung
class ActivationsOnHost(Rung):
    """Move the inputs of blocks that are computed again into pinned host memory."""

    name = "activations_host"
    place = 45
    control = "activations_in"

    def next(self, plan: Plan, cleared: bool) -> Attempt | None:
        """On a CUDA device, where blocks are computed again and their inputs stay."""
        place = BESIDE.get(plan.device)
        if place is None or plan.activations_in != "device":
            return None
        active = active_features(FEATURES, plan)
        if not kind_of(plan).recomputes or conflict(
            FEATURES, f"activations_{place}", active
        ):
            return None
        text = f"the inputs of blocks wait beside the device ({place})"
        return Attempt(self.name, text, self.control, place)

    def known_to_fit(self, plan: Plan, value: Any) -> Any:
        """The host, where the earlier run needed it."""
        attempt = self.next(plan, cleared=True)
        return value if attempt is not None and attempt.value == value else None
