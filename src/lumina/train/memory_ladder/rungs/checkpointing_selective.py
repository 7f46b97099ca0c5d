"""The activations of everything but products and attention are computed again."""

from __future__ import annotations

from lumina.train.memory_ladder.recomputing import Recomputing
from lumina.train.memory_ladder.rung import register_rung


@register_rung
class Selective(Recomputing):
    """Gradient checkpointing of the kind `selective`."""

    name = "checkpointing_selective"
    place = 30
    kind = "selective"
