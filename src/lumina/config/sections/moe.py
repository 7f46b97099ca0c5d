"""Options of Mixture of Experts."""

from __future__ import annotations

from typing import Literal

from pydantic import Field

from lumina.config.sections.section import Section


class MoeSection(Section):
    """Mixture of Experts: routed layers."""

    describes_model = True
    routes_by = "use_moe"

    use_moe: bool = Field(False, description="routed experts in place of the MLP")
    num_experts: int | None = Field(
        None, ge=2, description="experts in a routed layer; default: by model size"
    )
    moe_top_k: int = Field(2, ge=1, description="experts a token goes to")
    moe_pattern: Literal["all", "interleaved", "sandwich"] = Field(
        "all", description="which layers are routed"
    )
    moe_first_dense: int = Field(
        0,
        ge=0,
        description=("this many of the first layers are dense, whatever the pattern"),
    )
    moe_shared_experts: int = Field(
        0, ge=0, description="experts of the same width that every token goes to"
    )
    moe_score: Literal["softmax", "sigmoid"] = Field(
        "softmax", description="how logits become scores (sigmoid: DeepSeek-V3)"
    )
    moe_score_scale: float = Field(
        1.0, gt=0, description="factor on the weights of a token's experts"
    )
    moe_groups: int = Field(
        1, ge=1, description="groups of experts, as DeepSeek-V3; 1: no groups"
    )
    moe_top_groups: int = Field(
        1, ge=1, description="groups that a token's experts may come from"
    )
    moe_intermediate_size: int | None = Field(
        None, ge=1, description="SwiGLU width of one expert; default: the MLP's"
    )
    moe_dispatch: Literal["dropless", "capacity"] = Field(
        "dropless", description="keep every token, or drop past an expert's capacity"
    )
    capacity_factor: float | None = Field(
        None,
        gt=0,
        description="with moe_dispatch capacity: tokens that an expert has room for, "
        "as a multiple of an even share; default: by number of experts",
    )
    overflow: Literal["none", "tight", "loose", "adaptive", "reroute"] = Field(
        "none",
        description="tokens past an expert's places: tight drops them at factor 1.0, "
        "loose keeps them (1.5), adaptive follows the drop rate from 1.25, reroute "
        "(1.25) sends them on to their next best expert; none: as moe_dispatch says",
    )
    moe_normalise_top_k: bool = Field(
        True, description="the chosen experts' probabilities sum to one"
    )
    load_balancing_weight: float | None = Field(
        None,
        ge=0,
        description="weight of the load-balancing loss; default: by number of experts",
    )
    moe_balance_scope: Literal["global", "micro_batch"] = Field(
        "global",
        description="which expert load the balancing loss uses: that of the whole step "
        "before, or that of each forward",
    )
    router_z_loss_weight: float = Field(
        0.001, ge=0, description="weight of the router z-loss"
    )
    moe_bias_update_rate: float = Field(
        0.0, ge=0, description="step of the loss-free balancing bias; 0: no bias"
    )
    routing_temperature: float = Field(
        1.0, gt=0, description="the router's logits are divided by it; 1.2 explores"
    )
    router_jitter_noise: float = Field(
        0.0, ge=0, lt=1, description="relative noise on the router's logits in training"
    )
    expert_dropout: float = Field(
        0.0, ge=0, lt=1, description="chance that an expert is hidden from a token"
    )
    skip_unused_experts: bool = Field(
        False,
        description=(
            "leave the weights and moments of an expert as they are in a step in which "
            "no token reached it; otherwise they decay and follow their momentum"
        ),
    )
    router_init: Literal["normal", "orthogonal"] = Field(
        "normal",
        description=(
            "initial routers: normal (random), or orthogonal (rows of equal length at "
            "right angles, which prefer no expert)"
        ),
    )
    router_init_std: float | None = Field(
        None,
        gt=0,
        description="standard deviation of initial router weights; default: init_std",
    )
