"""Feed-forwards take a part of a forward's tokens at a time."""

from __future__ import annotations

from typing import Any

from lumina.errors import LuminaError
from lumina.plan.plan import Plan
from lumina.train.controls import control_named
from lumina.train.memory_ladder.rung import ROUNDING, Attempt, Rung, register_rung

PAYS = 8192
"""Tokens of a forward below which tiles cost time and save next to nothing."""

PARTS = 4
"""Tiles of a forward at first, and of each tile where that was not enough."""

SMALLEST = 2048
"""Tokens of a tile below which products become slow."""


@register_rung
class FeedforwardTile(Rung):
    """Divide the tokens of a forward among tiles, whose inside is computed again.

    It takes effect after whole blocks are computed again: what is left then is the
    inside of one block, of which a feed-forward is the largest part.
    """

    name = "feedforward_tile"
    place = 43
    control = "feedforward_tile"

    def next(self, plan: Plan, cleared: bool) -> Attempt | None:
        """Tiles of a quarter, where forwards are long and the model suits tiles."""
        tokens = plan.micro_batch_size * plan.spec.seq_length
        if tokens < PAYS:
            return None
        now = min(plan.feedforward_tile or tokens, tokens)
        size = max(-(-now // PARTS), SMALLEST)
        if size >= now or not _suits(plan, size):
            return None
        text = f"feed-forwards take {size:,} of a forward's {tokens:,} tokens at a time"
        return Attempt(self.name, text, self.control, size)

    def known_to_fit(self, plan: Plan, value: Any) -> Any:
        """Tiles of that many tokens, where they are larger or there are none."""
        tokens = plan.micro_batch_size * plan.spec.seq_length
        if not 0 < value < min(plan.feedforward_tile or tokens, tokens):
            return None
        return value if _suits(plan, value) else None

    def numbers(self, plan: Plan) -> str:
        """Each tile draws for itself; sums of gradients are added over tiles."""
        if any(one.dropout for one in plan.spec.adapters):
            return "dropout of adapters draws other numbers for tiles"
        return ROUNDING


def _suits(plan: Plan, size: int) -> bool:
    """Whether tiles go together with the features of the Plan."""
    try:
        control_named(FeedforwardTile.control).edit(plan, size)
    except LuminaError:
        return False
    return True
