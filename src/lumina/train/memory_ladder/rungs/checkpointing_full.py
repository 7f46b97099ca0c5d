"""The activations of whole blocks are computed again."""

from __future__ import annotations

from lumina.train.memory_ladder.recomputing import Recomputing
from lumina.train.memory_ladder.rung import register_rung


@register_rung
class Full(Recomputing):
    """Gradient checkpointing of the kind `full`."""

    name = "checkpointing_full"
    place = 40
    kind = "full"
