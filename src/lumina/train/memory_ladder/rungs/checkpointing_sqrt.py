"""The inputs of most blocks are computed again, too."""

from __future__ import annotations

from lumina.features import FEATURES, active_features, conflict
from lumina.plan.plan import Plan
from lumina.train.memory_ladder.recomputing import Recomputing
from lumina.train.memory_ladder.rung import Attempt, register_rung


@register_rung
class Segments(Recomputing):
    """Gradient checkpointing of the kind `sqrt`, for models that it suits."""

    name = "checkpointing_sqrt"
    place = 50
    kind = "sqrt"

    def next(self, plan: Plan, cleared: bool) -> Attempt | None:
        """This kind, where it goes together with the features of the Plan."""
        feature = f"gradient_checkpointing_{self.kind}"
        active = active_features(FEATURES, plan)
        if plan.spec.num_layers < LEAST or conflict(FEATURES, feature, active):
            return None
        return super().next(plan, cleared)


LEAST = 4
"""Fewer blocks than that keep as many inputs in segments as without."""
