"""LoRA+: B learns faster than A (Hayou et al., 2024, arXiv:2402.12354)."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from lumina.model.adapters.methods.lora import Lora
from lumina.model.adapters.table import register


class LoraPlus(Lora):
    """LoRA where the learning rate of B is a multiple of that of A."""

    name = "lora_plus"
    words = "LoRA+"

    def rate(self, leaf: str, options: Mapping[str, Any]) -> float:
        """The ratio for B, 1 for A."""
        return float(options["ratio"]) if leaf == "b" else 1.0


register(LoraPlus())
