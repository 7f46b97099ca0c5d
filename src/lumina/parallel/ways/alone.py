"""One process: the whole model, and nothing to exchange."""

from __future__ import annotations

from lumina.parallel.table import register_parallel
from lumina.parallel.way import Conditions, Way


@register_parallel("none")
class Alone(Way):
    """The way of a single process.

    Nothing else reads the weights between steps, so in half precision they can be
    copies of the masters, made once a step rather than once a forward.
    """

    several = False
    masters_apart = True

    @classmethod
    def refuses(cls, conditions: Conditions) -> str | None:
        """Several processes, which would not learn from one another."""
        processes = conditions.sizes.total
        if processes == 1:
            return None
        return f"with {processes} processes would train {processes} models"
