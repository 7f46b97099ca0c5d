"""The allocator gives back what it keeps unused, and the step is taken again."""

from __future__ import annotations

from lumina.plan.plan import Plan
from lumina.train.memory_ladder.rung import Attempt, Rung, register_rung


@register_rung
class Cache(Rung):
    """Empty the cache. It helps where the memory is in pieces that are too small."""

    name = "cache"
    place = 10

    def next(self, plan: Plan, cleared: bool) -> Attempt | None:
        """Once; a second failure soon afterwards needs another rung."""
        if cleared:
            return None
        return Attempt(self.name, "the cache is emptied")
