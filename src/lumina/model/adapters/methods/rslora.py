"""Rank-stabilised LoRA (Kalajdzievski, 2023, arXiv:2312.03732)."""

from __future__ import annotations

import math

from lumina.model.adapters.methods.lora import Lora
from lumina.model.adapters.table import register


class RankStabilised(Lora):
    """LoRA whose factor is alpha / sqrt(rank), which suits higher ranks."""

    name = "rslora"
    words = "rank-stabilised LoRA"

    def scale(self, alpha: float, rank: int) -> float:
        """alpha / sqrt(rank)."""
        return alpha / math.sqrt(rank)


register(RankStabilised())
