"""What the two rungs that compute activations again have in common."""

from __future__ import annotations

from typing import Any, ClassVar

from lumina.plan.checkpointing import stronger
from lumina.plan.plan import Plan
from lumina.train.memory_ladder.rung import Attempt, Rung


class Recomputing(Rung):
    """Keep fewer activations, and compute them again in the backward pass.

    Attributes:
        kind: of `gradient_checkpointing`.
    """

    control = "gradient_checkpointing"
    kind: ClassVar[str]

    def next(self, plan: Plan, cleared: bool) -> Attempt | None:
        """This kind, where fewer activations than now are kept by it."""
        if self.kind not in stronger(plan.gradient_checkpointing):
            return None
        text = f"gradient checkpointing is {self.kind}"
        return Attempt(self.name, text, self.control, self.kind)

    def known_to_fit(self, plan: Plan, value: Any) -> Any:
        """This kind, where the earlier run needed just it."""
        if value != self.kind or self.next(plan, cleared=True) is None:
            return None
        return value
