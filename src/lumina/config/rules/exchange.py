"""The exchange between processes: what does nothing without gradients in factors."""

from __future__ import annotations

from lumina.config.rules.rule import Rule
from lumina.config.settings import Settings


def without_effect(settings: Settings) -> dict[str, str]:
    """Options of compressed gradients without effect, and why."""
    if settings.exchange.gradient_compression != "none":
        return {}
    why = "gradient_compression is none, so gradients are exchanged whole"
    return {"gradient_compression_rank": why, "gradient_compression_start": why}


RULE = Rule(without_effect=without_effect)
