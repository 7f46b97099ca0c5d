"""Options of Mixture of Recursions."""

from __future__ import annotations

from typing import Literal

from pydantic import Field

from lumina.config.sections.section import Section


class MorSection(Section):
    """Mixture of Recursions: some tokens pass the middle blocks again."""

    describes_model = True
    routes_by = "use_mor"

    use_mor: bool = Field(False, description="Mixture of Recursions")
    mor_recursions: int = Field(
        2, ge=1, description="most passes through the blocks between first and last"
    )
    mor_mode: Literal["dynamic", "static"] = Field(
        "dynamic", description="top-k tokens, or all tokens every time, softly weighted"
    )
    mor_routing: Literal["expert_choice", "token_choice"] = Field(
        "expert_choice",
        description="each pass takes its share of the tokens, or each token has its "
        "depth from one router",
    )
    mor_kv_sharing: bool = Field(
        False, description="later passes attend to the keys of the first, of all tokens"
    )
    mor_alpha: float | None = Field(
        None,
        gt=0,
        description="factor on a recursion's weight; default: 0.1, token_choice 1",
    )
    mor_router_loss_weight: float = Field(
        0.001, ge=0, description="weight of the routers' own loss (expert_choice)"
    )
    mor_capacity_factor: float = Field(
        1.25,
        gt=0,
        description="tokens that a pass has room for, as a multiple of its share under "
        "an even load (token_choice)",
    )
    mor_balance_weight: float = Field(
        0.1, ge=0, description="weight of the loss that evens out depths (token_choice)"
    )
    mor_z_loss_weight: float = Field(
        1e-5, ge=0, description="weight of the router's z-loss (token_choice)"
    )
