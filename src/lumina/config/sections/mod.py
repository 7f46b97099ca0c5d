"""Options of Mixture of Depths."""

from __future__ import annotations

from typing import Literal

from pydantic import Field, field_validator

from lumina.config.sections.section import Section


class ModSection(Section):
    """Mixture of Depths: blocks that only some tokens go through."""

    describes_model = True
    routes_by = "use_mod"

    use_mod: bool = Field(False, description="Mixture of Depths")
    mod_capacity_factor: float = Field(
        0.5, gt=0, le=1, description="share of tokens a Mixture-of-Depths layer takes"
    )
    mod_capacity_ladder: tuple[float, ...] = Field(
        (), description="further shares a running job may change to at once"
    )
    mod_capacity_schedule: tuple[float, ...] = Field(
        (), description="shares of equal parts of the run, such as 0.75 0.55 0.45"
    )
    mod_pattern: Literal["alternate", "all", "dense"] | None = Field(
        None,
        description="which layers: every second, all, or those without experts; "
        "default: dense where only some layers have experts, else alternate",
    )
    mod_scope: Literal["block", "feedforward"] = Field(
        "block", description="what the other tokens skip"
    )
    mod_routing_strategy: Literal["learned", "fixed", "random"] = Field(
        "learned", description="what decides: a router, the position, or chance"
    )
    mod_mode: Literal["dynamic", "static"] = Field(
        "dynamic", description="top-k tokens, or all tokens softly weighted (dense)"
    )
    mod_predictor_weight: float = Field(
        0.01, ge=0, description="weight of the causal predictor's loss"
    )

    @field_validator("mod_capacity_ladder", "mod_capacity_schedule")
    @classmethod
    def _shares(cls, values: tuple[float, ...]) -> tuple[float, ...]:
        if not all(0 < value <= 1 for value in values):
            raise ValueError("shares are above 0, at most 1")
        return values
