"""Static routing: what it goes with, and where there is nothing to route."""

from __future__ import annotations

from lumina.config.rules.refusing import refuse
from lumina.config.rules.rule import Rule
from lumina.config.settings import Settings


def check(settings: Settings) -> None:
    """Refuse routing that is static and chooses by something else than a router.

    Raises:
        LuminaError: E002.
    """
    if not settings.routing.static_routing_mode:
        return
    mod, mor = settings.mod, settings.mor
    if mod.use_mod and mod.mod_routing_strategy != "learned":
        refuse(
            "static_routing_mode weighs tokens by a router, and mod_routing_strategy "
            f"{mod.mod_routing_strategy} has none",
            "use mod_routing_strategy learned, or --no-static-routing-mode",
        )
    if mor.use_mor and mor.mor_routing == "token_choice":
        refuse(
            "static_routing_mode lets every token go all the way, and mor_routing "
            "token_choice lets each choose how far",
            "use mor_routing expert_choice, or --no-static-routing-mode",
        )


def without_effect(settings: Settings) -> dict[str, str]:
    """Static routing of a model that routes nothing."""
    routed = settings.moe.use_moe or settings.mod.use_mod or settings.mor.use_mor
    return {} if routed else {"static_routing_mode": "the model routes no token"}


RULE = Rule(check=check, without_effect=without_effect)
