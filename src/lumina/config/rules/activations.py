"""What is kept of the activations: what does not go together, and what does nothing."""

from __future__ import annotations

from lumina.config.rules.rule import Rule
from lumina.config.settings import Settings
from lumina.errors import LuminaError

TILELESS = ("selective", "budget", "adaptive")
"""Kinds of checkpointing that may keep products."""


def check(settings: Settings) -> None:
    """Refuse a place for the inputs of blocks that are not computed again."""
    place = settings.activations.activations_in
    kind = settings.system.gradient_checkpointing
    if place != "device" and kind in ("none", "adaptive"):
        raise LuminaError(
            "E002",
            f"activations_in {place} moves the inputs of blocks that are computed "
            f"again, and gradient_checkpointing {kind} may compute none again",
            "use --gradient-checkpointing full",
        )
    check_tiles(settings)


def check_tiles(settings: Settings) -> None:
    """Refuse tiles beside recomputation that keeps the products of each tile."""
    kind = settings.system.gradient_checkpointing
    if settings.activations.feedforward_tile and kind in TILELESS:
        raise LuminaError(
            "E002",
            f"gradient_checkpointing {kind} keeps the products of feed-forwards, and "
            "feedforward_tile is there to do without them",
            "use --gradient-checkpointing full",
        )


def without_effect(settings: Settings) -> dict[str, str]:
    """Options of activations without effect, and why."""
    found = {}
    if settings.system.gradient_checkpointing != "budget":
        found["activation_budget"] = "gradient_checkpointing is not budget"
    if not settings.activations.feedforward_tile:
        found["attention_head_groups"] = "feedforward_tile is 0"
    return found


RULE = Rule(check=check, without_effect=without_effect)
