"""Actions against memory that fills up, before a step finds no room.

None of them changes what a step computes: its rows stay, and so does its gradient, up
to rounding.
"""

from __future__ import annotations

from typing import ClassVar

from lumina.plan.checkpointing import AUTOMATIC, stronger
from lumina.plan.plan import Plan
from lumina.train.health.watching import Finding
from lumina.train.memory_ladder.rungs.micro_batch import largest_divisor
from lumina.train.orchestrator.actions.action import Action, register_action
from lumina.train.rules.rule import Now, Proposal


@register_action
class ClearCache(Action):
    """Give back what is held without being used."""

    name = "clear_cache"
    level = 1
    control = "memory_cache"
    measures = "memory"

    def proposal(self, finding: Finding, now: Now, plan: Plan) -> Proposal | None:
        """Always the same."""
        return self.changed(finding, "empty", "give unused memory back")


@register_action
class SmallerMicroBatch(Action):
    """The next smaller forward that divides a step, such as 12 rows in place of 16."""

    name = "smaller_micro_batch"
    level = 2
    control = "micro_batch_size"
    measures = "memory"

    def proposal(self, finding: Finding, now: Now, plan: Plan) -> Proposal | None:
        """The largest number of rows below the present one."""
        rows = now(self.control)
        if rows == 1:
            return None
        fewer = largest_divisor(plan, rows - 1)
        noun = "row" if fewer == 1 else "rows"
        what = f"{fewer} {noun} in a forward instead of {rows}, and more forwards"
        return self.changed(finding, fewer, what)


@register_action
class RecomputeActivations(Action):
    """The next kind of gradient checkpointing, which keeps fewer activations."""

    name = "recompute_activations"
    level = 2
    control: ClassVar[str] = "gradient_checkpointing"
    measures = "memory"

    def proposal(self, finding: Finding, now: Now, plan: Plan) -> Proposal | None:
        """From none to selective, from selective to full."""
        kind = next((k for k in stronger(now(self.control)) if k in AUTOMATIC), "")
        if not kind:
            return None
        return self.changed(finding, kind, f"gradient checkpointing {kind}")
