"""Mixture of Depths: which options do not go together, and which do nothing."""

from __future__ import annotations

from lumina.config.rules.refusing import refuse
from lumina.config.rules.rule import Rule
from lumina.config.settings import Settings


def check(settings: Settings) -> None:
    """Refuse a router that the way of choosing does not have.

    Raises:
        LuminaError: E002.
    """
    mod = settings.mod
    learned = mod.mod_routing_strategy == "learned"
    if mod.use_mod and mod.mod_mode == "static" and not learned:
        refuse(
            "mod_mode static weighs tokens by a router, and mod_routing_strategy "
            f"{mod.mod_routing_strategy} has none",
            "use mod_routing_strategy learned, or mod_mode dynamic",
        )
    if mod.use_mod and settings.routing.static_routing_mode and not learned:
        refuse(
            "static_routing_mode weighs tokens by a router, and mod_routing_strategy "
            f"{mod.mod_routing_strategy} has none",
            "use mod_routing_strategy learned, or --no-static-routing-mode",
        )


def without_effect(settings: Settings) -> dict[str, str]:
    """Options of Mixture of Depths without effect, and why."""
    mod = settings.mod
    leaves = [leaf for leaf in type(mod).model_fields if leaf != "use_mod"]
    if not mod.use_mod:
        return dict.fromkeys(leaves, "use_mod is off")
    unused: dict[str, str] = {}
    if mod.mod_mode == "static" or settings.routing.static_routing_mode:
        dynamic = [leaf for leaf in leaves if "capacity" in leaf]
        unused |= dict.fromkeys(
            [*dynamic, "mod_predictor_weight"], "static routing computes every token"
        )
    if mod.mod_routing_strategy != "learned":
        unused["mod_predictor_weight"] = "there is no router to predict"
    if mod.mod_capacity_schedule:
        unused["mod_capacity_factor"] = "mod_capacity_schedule says it"
    return unused


RULE = Rule(check=check, without_effect=without_effect)
