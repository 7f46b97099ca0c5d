"""Mixture of Recursions: which options do not go together, and which do nothing."""

from __future__ import annotations

from lumina.config.rules.refusing import refuse
from lumina.config.rules.rule import Rule
from lumina.config.settings import Settings


def check(settings: Settings) -> None:
    """Refuse recursions that leave no block to repeat, and routings that exclude.

    Raises:
        LuminaError: E002.
    """
    if settings.mor.use_mor and settings.model.num_layers < 3:
        refuse(
            f"use_mor shares the blocks between the first and the last, and num_layers "
            f"{settings.model.num_layers} leaves none",
            "use --num-layers 3 or more",
        )
    if not settings.mor.use_mor:
        return
    if settings.mor.mor_routing == "token_choice" and settings.mor.mor_mode == "static":
        refuse(
            "mor_mode static lets every token go all the way, and mor_routing "
            "token_choice lets each choose how far",
            "leave one of the two out",
        )
    chosen = settings.mor.mor_routing == "token_choice"
    if chosen and settings.routing.static_routing_mode:
        refuse(
            "static_routing_mode lets every token go all the way, and mor_routing "
            "token_choice lets each choose how far",
            "use mor_routing expert_choice, or --no-static-routing-mode",
        )


def without_effect(settings: Settings) -> dict[str, str]:
    """Options of Mixture of Recursions without effect, and why."""
    mor = settings.mor
    leaves = [leaf for leaf in type(mor).model_fields if leaf != "use_mor"]
    if not mor.use_mor:
        return dict.fromkeys(leaves, "use_mor is off")
    leaves.remove("mor_recursions")
    if mor.mor_recursions == 1:
        return dict.fromkeys(leaves, "one recursion is the plain transformer")
    if mor.mor_routing == "token_choice":
        why = "mor_routing token_choice has losses of its own"
        return {"mor_router_loss_weight": why}
    chosen = ("mor_capacity_factor", "mor_balance_weight", "mor_z_loss_weight")
    unused = dict.fromkeys(chosen, "mor_routing is expert_choice")
    if mor.mor_mode == "static" or settings.routing.static_routing_mode:
        why = "static routing lets every token through"
        unused["mor_router_loss_weight"] = why
    return unused


RULE = Rule(check=check, without_effect=without_effect)
