"""Weights in few bits: what the Plan decides."""

from __future__ import annotations

from typing import TYPE_CHECKING

from lumina.features.few_bits import asked_base_storage, asked_rounding
from lumina.plan.decisions import Decisions, source_of

if TYPE_CHECKING:
    from lumina.config import Config


def decide_few_bits(config: Config, decisions: Decisions) -> None:
    """Which codec holds the frozen base, and which one weights are trained for."""
    why = source_of(config, "quantization_method")
    if config.quantization.load_in_4bit or config.quantization.load_in_8bit:
        bits = 4 if config.quantization.load_in_4bit else 8
        why = source_of(config, f"load_in_{bits}bit")
    decisions.decide("base_storage", asked_base_storage(config), why)
    decisions.decide("rounded_to", asked_rounding(config), why)
