"""Mixture of Experts: what does not go together, is unusual, or does nothing."""

from __future__ import annotations

from lumina.config.leaves import field
from lumina.config.rules.refusing import refuse
from lumina.config.rules.rule import Rule
from lumina.config.settings import Settings

_MOE_ONLY = (
    "num_experts", "moe_top_k", "moe_pattern", "moe_intermediate_size",
    "moe_dispatch", "capacity_factor", "overflow", "load_balancing_weight",
    "router_z_loss_weight", "moe_bias_update_rate", "moe_normalise_top_k",
    "moe_first_dense", "moe_shared_experts", "moe_score", "moe_score_scale",
    "moe_balance_scope", "routing_temperature", "router_jitter_noise",
    "expert_dropout", "router_init", "router_init_std", "auto_adjust_lr",
    "skip_unused_experts",
)  # fmt: skip


def check(settings: Settings) -> None:
    """Refuse experts, groups and capacities that contradict each other.

    Raises:
        LuminaError: E002.
    """
    moe = settings.moe
    _check_groups(settings)
    _check_overflow(settings)
    _check_unused(settings)
    if moe.use_moe and moe.num_experts and moe.moe_top_k > moe.num_experts:
        refuse(
            f"moe_top_k {moe.moe_top_k} is more than num_experts {moe.num_experts}",
            f"a token can go to at most {moe.num_experts} experts",
        )


def _check_overflow(settings: Settings) -> None:
    """A strategy says how tokens are dispatched, and may say the capacity."""
    overflow = settings.moe.overflow
    if overflow == "none":
        return
    says = "dropless" if overflow == "loose" else "capacity"
    fixed = ("capacity_factor",) if overflow in ("tight", "loose") else ()
    if overflow == "reroute" and settings.moe.moe_groups > 1:
        refuse(
            "overflow reroute sends a token to its next best expert, which may be in "
            f"none of its groups (moe_groups {settings.moe.moe_groups})",
            "leave one of the two out",
        )
    for leaf in ("moe_dispatch", *fixed):
        value = settings.get(leaf)
        chosen = settings.is_chosen(leaf)
        if chosen and value != field(leaf).default and value != says:
            refuse(
                f"{leaf} {value} and overflow {overflow} contradict each other",
                f"leave {leaf} out, or use --overflow none",
            )


def _check_unused(settings: Settings) -> None:
    """Experts rest only where weights and states are seen beside all gradients."""
    if not (settings.moe.use_moe and settings.moe.skip_unused_experts):
        return
    offload = settings.offload
    against = {
        "optimizer_in_backward": offload.optimizer_in_backward
        and "changes them while gradients are still being made",
        "optimizer_states_in": offload.optimizer_states_in != "device"
        and "keeps their states elsewhere",
        "gradient_steps": "noise" in settings.train.gradient_steps
        and "adds noise, so that every expert has a gradient",
    }
    for leaf, why in against.items():
        if why:
            refuse(
                "skip_unused_experts leaves experts without a gradient as they are, "
                f"and {leaf} {settings.get(leaf)} {why}",
                "leave one of the two out",
            )


def _check_groups(settings: Settings) -> None:
    moe = settings.moe
    if moe.moe_top_groups > moe.moe_groups:
        refuse(
            f"moe_top_groups {moe.moe_top_groups} is more than moe_groups "
            f"{moe.moe_groups}",
            "a token's experts come from some of the groups",
        )
    experts, groups = moe.num_experts, moe.moe_groups
    if groups == 1 or not moe.use_moe:
        return
    if experts is None or experts % groups or experts < 2 * groups:
        refuse(
            f"num_experts {experts} does not make {groups} groups (moe_groups) of two "
            "or more",
            f"use --num-experts {max(2, round((experts or 0) / groups)) * groups}",
        )
    elif moe.moe_top_k > experts // groups * moe.moe_top_groups:
        refuse(
            f"moe_top_k {moe.moe_top_k} is more than the experts of "
            f"{moe.moe_top_groups} groups (moe_top_groups)",
            "let a token choose among more groups, or fewer experts",
        )


def advice(settings: Settings) -> list[str]:
    """Advice on unusual values."""
    moe = settings.moe
    found: list[str] = []
    if not moe.use_moe:
        return found
    if moe.num_experts is not None and not 4 <= moe.num_experts <= 256:
        found.append(f"num_experts {moe.num_experts} is outside the usual 4 to 256")
    factor = moe.capacity_factor
    drops = moe.moe_dispatch == "capacity" or moe.overflow in ("adaptive", "reroute")
    if drops and factor and not 1.0 <= factor <= 2.8:
        found.append(f"capacity_factor {factor:g} is outside the usual 1 to 2.8")
    if not 0.5 <= moe.routing_temperature <= 2:
        found.append(
            f"routing_temperature {moe.routing_temperature:g} is outside the usual "
            "0.5 to 2"
        )
    if moe.expert_dropout > 0.2:
        found.append(f"expert_dropout {moe.expert_dropout:g} is above the usual 0.2")
    if moe.moe_top_k == 1 and moe.moe_normalise_top_k:
        found.append(
            "moe_top_k 1 with moe_normalise_top_k: the one chosen expert always weighs "
            "1, so the router learns nothing from the loss; switch the latter off"
        )
    weight = moe.load_balancing_weight
    if weight is None:
        return found
    if weight > 0.05:
        found.append(
            f"load_balancing_weight {weight:g} is above the usual 0.005 to 0.05"
        )
    elif weight < 0.005 and moe.moe_bias_update_rate == 0:
        found.append(
            f"load_balancing_weight {weight:g} with no balancing bias: tokens may all "
            "go to a few experts"
        )
    return found


def without_effect(settings: Settings) -> dict[str, str]:
    """Options without effect, and why."""
    moe = settings.moe
    if not moe.use_moe:
        return dict.fromkeys((*_MOE_ONLY, "log_expert_usage"), "use_moe is off")
    if moe.moe_dispatch == "dropless" and moe.overflow == "none":
        return {"capacity_factor": "moe_dispatch is dropless"}
    return {}


RULE = Rule(check=check, advice=advice, without_effect=without_effect)
