"""Options of what is kept of the activations, and where."""

from __future__ import annotations

from pydantic import Field

from lumina.config.sections.section import Section


class ActivationsSection(Section):
    """What is kept of the activations for the backward pass, and where."""

    activation_budget: int | None = Field(
        None,
        ge=2**20,
        description="with gradient_checkpointing budget: most bytes of activations "
        "that are kept for the backward pass; default: what the memory leaves",
    )
