"""Mixtures of Depths and Recursions: what does not go together or does nothing."""

from __future__ import annotations

from typing import TYPE_CHECKING

from lumina.config.refusing import refuse

if TYPE_CHECKING:
    from lumina.config.config import Config


def check_depth(config: Config) -> None:
    """Refuse ways of choosing depth that contradict each other.

    Raises:
        LuminaError: E002.
    """
    _check_mod(config)
    _check_mor(config)


def _check_mod(config: Config) -> None:
    mod = config.mod
    learned = mod.mod_routing_strategy == "learned"
    if mod.use_mod and mod.mod_mode == "static" and not learned:
        refuse(
            "mod_mode static weighs tokens by a router, and mod_routing_strategy "
            f"{mod.mod_routing_strategy} has none",
            "use mod_routing_strategy learned, or mod_mode dynamic",
        )


def _check_mor(config: Config) -> None:
    if config.mor.use_mor and config.model.num_layers < 3:
        refuse(
            f"use_mor shares the blocks between the first and the last, and num_layers "
            f"{config.model.num_layers} leaves none",
            "use --num-layers 3 or more",
        )
    if not config.mor.use_mor:
        return
    if config.mor.mor_routing == "token_choice" and config.mor.mor_mode == "static":
        refuse(
            "mor_mode static lets every token go all the way, and mor_routing "
            "token_choice lets each choose how far",
            "leave one of the two out",
        )
    if config.mor.mor_kv_sharing and config.mod.use_mod:
        refuse(
            "mor_kv_sharing and use_mod do not go together: a Mixture-of-Depths layer "
            "makes keys of some tokens only, and others would ask for them",
            "leave one of the two out",
        )


def idle_depth(config: Config) -> dict[str, str]:
    """Options without effect, and why."""
    return _idle_mod(config) | _idle_mor(config)


def _idle_mod(config: Config) -> dict[str, str]:
    """Options of Mixture of Depths without effect, and why."""
    mod = config.mod
    leaves = [leaf for leaf in type(mod).model_fields if leaf != "use_mod"]
    if not mod.use_mod:
        return dict.fromkeys(leaves, "use_mod is off")
    idle: dict[str, str] = {}
    if mod.mod_mode == "static":
        dynamic = [leaf for leaf in leaves if "capacity" in leaf]
        idle |= dict.fromkeys(
            [*dynamic, "mod_predictor_weight"], "mod_mode static computes every token"
        )
    if mod.mod_routing_strategy != "learned":
        idle["mod_predictor_weight"] = "there is no router to predict"
    if mod.mod_capacity_schedule:
        idle["mod_capacity_factor"] = "mod_capacity_schedule says it"
    return idle


def _idle_mor(config: Config) -> dict[str, str]:
    """Options of Mixture of Recursions without effect, and why."""
    mor = config.mor
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
    idle = dict.fromkeys(chosen, "mor_routing is expert_choice")
    if mor.mor_mode == "static":
        idle["mor_router_loss_weight"] = "mor_mode static lets every token through"
    return idle
