"""Options of how a run's model answers where `generate` and `chat` are told nothing."""

from __future__ import annotations

from pydantic import Field

from lumina.config.sections.section import Section


class AnsweringSection(Section):
    """How the model answers later, unless `lumina generate` or `chat` say otherwise."""

    max_new_tokens: int | None = Field(
        None, ge=1, description="most tokens of an answer; default: 512"
    )
    temperature: float | None = Field(
        None,
        ge=0,
        description="how much chance has a part in choosing a token: 1 draws by the "
        "model's probabilities, lower prefers the likely ones; 0: always the "
        "likeliest; default: 0.8",
    )
    top_k: int | None = Field(
        None, ge=0, description="draw from the k likeliest; 0: from all; default: 50"
    )
    top_p: float | None = Field(
        None,
        gt=0,
        le=1,
        description="draw from the likeliest that reach this share; default: 0.9",
    )
